// Runs the same command line with qemu-img and with imgtx under its name, each in a folder of its own that
// begins alike, and gives what either printed in a form that can be compared.
//
// Invariant: what differs by nature is made equal in both (folders), nothing else.

import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { CliContext } from "../../../src/cli/context.ts";
import { run } from "../../../src/cli/main.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { runProgram, SINGLE_FILE } from "../program.ts";
import { afterFile, makeFolderOfFile as makeFolder } from "../temporary-folder.ts";

export { makeFolder };

export interface Printed {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Whose form is compared with the system's own qemu-img. */
const SYSTEM_VERSION = "7.2";

/** Runs a line of shell, which must succeed, for preparing images. */
export function shell(folder: string, script: string): string {
  const { status, stdout, stderr } = spawnSync("bash", ["-euc", script], { cwd: folder, encoding: "utf8" });
  if (status !== 0) throw new Error(`${script}: exit status ${status}\n${stdout}${stderr}`);
  return stdout;
}

export function runQemu(folder: string, words: readonly string[]): Printed {
  const { status, stdout, stderr } = spawnSync("qemu-img", words, { cwd: folder, encoding: "utf8" });
  return neutral({ status: status ?? -1, stdout, stderr }, folder);
}

/**
 * Runs each command line in turn in one folder, with one start of a shell for all of them: the program, or a version
 * of qemu-img that is unpacked beside the system's.
 */
export function runQemuBatch(
  program: string,
  folder: string,
  lines: readonly (readonly string[])[],
): Printed[] {
  const kept = makeFolder();
  const quote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;
  const commands = lines.map(
    (words, at) =>
      `${[program, ...words].map(quote).join(" ")} >'${kept}/${at}.out' 2>'${kept}/${at}.err'; echo $? >'${kept}/${at}.status'`,
  );
  spawnSync("bash", ["-c", commands.join("\n")], { cwd: folder });
  return lines.map((_, at) => {
    const read = (what: string): string => readFileSync(`${kept}/${at}.${what}`, "utf8");
    return neutral({ status: Number(read("status")), stdout: read("out"), stderr: read("err") }, folder);
  });
}

export interface ImgSetting {
  /** Under qemu-img's name, unless this says otherwise. */
  readonly program?: "imgtx";
  readonly env?: CliContext["env"];
  readonly storage?: CliContext["storage"];
  readonly onInterrupt?: CliContext["onInterrupt"];
  readonly onProgressRequest?: CliContext["onProgressRequest"];
}

export async function runImg(
  folder: string,
  words: readonly string[],
  setting: ImgSetting = {},
): Promise<Printed> {
  const asQemu = setting.program === undefined;
  const argv = asQemu ? words : ["img", ...words];
  const env = { IMGTX_QEMU_IMG: SYSTEM_VERSION, ...setting.env };
  const program = asQemu ? ("qemu-img" as const) : undefined;
  if (SINGLE_FILE !== undefined && Object.keys(setting).every((name) => ["program", "env"].includes(name))) {
    return neutral(await runProgram(SINGLE_FILE, argv, { cwd: folder, env, program }), folder);
  }
  const caught = { stdout: "", stderr: "" };
  const outputTo = (name: "stdout" | "stderr") => ({
    write: (text: string) => {
      caught[name] += text;
    },
    isTTY: false,
    columns: undefined,
  });
  const status = await run(argv, {
    storage: setting.storage ?? makeNodeStorage(),
    cwd: folder,
    env,
    stdout: outputTo("stdout"),
    stderr: outputTo("stderr"),
    stdin: async () => "",
    ...(program && { program }),
    ...(setting.onInterrupt && { onInterrupt: setting.onInterrupt }),
    ...(setting.onProgressRequest && { onProgressRequest: setting.onProgressRequest }),
  });
  return neutral({ status, ...caught }, folder);
}

/** Both tools on the same images, made anew by `prepare` for each. */
export async function runBoth(
  prepare: string,
  words: readonly string[],
): Promise<{ qemu: Printed; ours: Printed; qemuFolder: string; ourFolder: string }> {
  const [qemuFolder, ourFolder] = [makeFolder(), makeFolder()];
  for (const folder of [qemuFolder, ourFolder]) if (prepare !== "") copyPrepared(prepare, folder);
  return {
    qemu: runQemu(qemuFolder, words),
    ours: await runImg(ourFolder, words),
    qemuFolder,
    ourFolder,
  };
}

const prepared = new Map<string, string>();

/** Prepares once, and copies what came of it. */
export function copyPrepared(script: string, folder: string): void {
  let source = prepared.get(script);
  if (source === undefined) {
    source = makeFolder();
    shell(source, script);
    prepared.set(script, source);
    afterFile(() => void prepared.delete(script));
  }
  execFileSync("cp", ["-a", "--sparse=always", `${source}/.`, "."], { cwd: folder });
}

/** qemu-img leaves out the last line break of some errors. */
function neutral({ status, stdout, stderr }: Printed, folder: string): Printed {
  const plain = (text: string): string => text.replaceAll(folder, "FOLDER");
  const closed = stderr === "" || stderr.endsWith("\n") ? stderr : `${stderr}\n`;
  return { status, stdout: plain(stdout), stderr: plain(closed) };
}
