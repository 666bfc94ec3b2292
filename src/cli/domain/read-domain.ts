// `--domain NAME|FILE`: a libvirt domain, by its name, from a file of its XML, or from stdin. Loaded by commands that were
// given one.

import { ImgtxError, whileOpen } from "../../errors/index.ts";
import { absoluteFilePath } from "../grammar/path.ts";
import type { Invocation } from "../running/invocation.ts";
import { type DomainDisk, readDisks } from "./disks.ts";

const MOST_BYTES = 4 * 1024 * 1024;

export async function readDomain(invocation: Invocation, word: string): Promise<readonly DomainDisk[]> {
  if (word === "") throw new ImgtxError("E_USAGE", "--domain: the name is empty");
  if (word === "-") return readDisks(bounded(await invocation.context.stdin(MOST_BYTES), word), "stdin");
  if (word.includes("/") || word.endsWith(".xml")) {
    return readDisks(await readXmlFile(invocation, word), `'${word}'`);
  }
  return readDisks(await askVirsh(invocation, word), `what virsh prints of '${word}'`);
}

function bounded(text: string, word: string): string {
  if (Buffer.byteLength(text) <= MOST_BYTES) return text;
  throw new ImgtxError("E_REFUSED", `the XML of '${word}' has more than ${MOST_BYTES} bytes`);
}

async function readXmlFile({ context }: Invocation, word: string): Promise<string> {
  const file = await context.storage.openFile(absoluteFilePath(context.cwd, word), "read");
  return await whileOpen(file, async () => {
    const { sizeBytes } = await file.stat();
    const bytes = new Uint8Array(Math.min(sizeBytes, MOST_BYTES + 1));
    const length = await file.read(bytes, 0);
    return bounded(new TextDecoder().decode(bytes.subarray(0, length)), word);
  });
}

async function askVirsh({ context, signal }: Invocation, name: string): Promise<string> {
  if (context.readProgram === undefined) throw new Error("this context runs no programs");
  if (name.startsWith("-")) {
    throw new ImgtxError("E_USAGE", `--domain: virsh would take '${name}' for an option`, {
      hint: "name the domain by its UUID or its number",
    });
  }
  const command = ["virsh", "dumpxml", name];
  const { end, printed, complaint } = await context.readProgram(command, {
    cwd: context.cwd,
    env: context.env,
    mostBytes: MOST_BYTES,
    signal,
  });
  signal.throwIfAborted();
  if (end.kind === "exited" && end.status === 0) return bounded(printed, name);
  const said = complaint.trim().split("\n")[0] ?? "";
  const why =
    end.kind === "not-started"
      ? end.reason
      : `it ended with ${end.kind === "killed" ? end.signal : end.status}${said === "" ? "" : `: ${said}`}`;
  throw new ImgtxError("E_NOT_FOUND", `virsh gives no XML of the domain '${name}': ${why}`, {
    hint: "a file of its XML does as well: `imgtx doctor --domain ./FILE.xml`",
  });
}
