// A small program with a journal, to test the crash rig with: it sets two files to the same text, both
// or neither. Each of its flushes can be muted, and each fault that the rig must find can be switched on.

import { createHash } from "node:crypto";
import { ImgtxError } from "../../src/errors/index.ts";
import type { Storage } from "../../src/storage/index.ts";
import { SimulatedMachine } from "./simulated/simulated-disk.ts";
import { startProcess } from "./simulated/simulated-process.ts";
import type { Plan, Subject } from "./subject.ts";
import { Tree } from "./simulated/disk-tree.ts";

/** Mistakes that a program may have. */
export interface ToyFaults {
  /** Sets the second file only after the journal is gone. */
  readonly forgetsSecondFile?: boolean;
  /** Recovery writes a note each time. */
  readonly restless?: boolean;
  /** A failed flush of the commit mark is reported as rolled back. */
  readonly trustsFailedFlush?: boolean;
  /** Changes a file that is none of its business. */
  readonly touchesNeighbour?: boolean;
  /** Takes a damaged journal for an empty one. */
  readonly ignoresDamage?: boolean;
}

const TOY_FILES = ["/data/a", "/data/b"];
const PRIVATE = "/data/.toy";
const JOURNAL = `${PRIVATE}/journal`;
const DRAFT = `${PRIVATE}/draft`;

export function toySubject(faults: ToyFaults = {}): Subject {
  return {
    recover: ["recover"],
    run: async (storage, argv) => {
      try {
        await runToy(storage, argv, faults);
        return { exit: 0, text: "" };
      } catch (error) {
        if (!(error instanceof ImgtxError)) throw error;
        return { exit: error.exitCode, text: error.message };
      }
    },
    observe: async (machine) => {
      const storage = startProcess(machine);
      const texts = await Promise.all(TOY_FILES.map((path) => readText(storage, path)));
      return [...texts.map((text, index) => `${TOY_FILES[index]}: ${text}`), filesOf(machine.tree)].join(
        "\n",
      );
    },
    files: filesOf,
    disksOf: (observed) => observed,
  };
}

export async function toyPlan(): Promise<Plan> {
  const machine = new SimulatedMachine({ durable: new Tree() });
  const storage = startProcess(machine);
  await storage.makeFolder("/data", 0o755);
  await storage.makeFolder(PRIVATE, 0o755);
  for (const path of [...TOY_FILES, "/data/neighbour"]) await writeWhole(storage, path, "first", "prepare");
  return {
    name: "toy",
    disk: machine.tree,
    prepare: [],
    steps: [{ argv: ["set", "second"] }, { argv: ["set", "third"] }],
  };
}

async function runToy(storage: Storage, argv: readonly string[], faults: ToyFaults): Promise<void> {
  await recover(storage, faults);
  const [verb, text = ""] = argv;
  if (verb !== "set") return;
  await commit(storage, text, faults);
  await finish(storage, text, faults);
}

async function commit(storage: Storage, text: string, faults: ToyFaults): Promise<void> {
  try {
    await writeWhole(storage, DRAFT, `${digest(text)} ${text}`, "journal content");
    await storage.rename(DRAFT, JOURNAL);
  } catch (error) {
    await removeIfThere(storage, DRAFT);
    throw error;
  }
  try {
    await storage.flushFolder(PRIVATE, "journal name");
  } catch (error) {
    if (faults.trustsFailedFlush) {
      await removeIfThere(storage, JOURNAL);
      throw error;
    }
    if (!(error instanceof ImgtxError)) throw error;
    await commitAnew(storage, text);
  }
}

/** The kernel takes what failed to be flushed for clean, so only a new file under a new name can be. */
async function commitAnew(storage: Storage, text: string): Promise<void> {
  try {
    await writeWhole(storage, DRAFT, `${digest(text)} ${text}`, "journal content");
    await storage.rename(DRAFT, JOURNAL);
    await storage.flushFolder(PRIVATE, "journal name");
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    throw new ImgtxError("E_UNFINISHED", "in doubt: the next command goes on", { cause: error });
  }
}

/** After the commit mark: a failure is for the next command to finish. */
async function finish(storage: Storage, text: string, faults: ToyFaults): Promise<void> {
  try {
    await apply(storage, text, faults);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    throw new ImgtxError("E_UNFINISHED", error.message, { cause: error });
  }
}

async function apply(storage: Storage, text: string, faults: ToyFaults): Promise<void> {
  for (const path of TOY_FILES) {
    if (faults.forgetsSecondFile && path === TOY_FILES[1]) await storage.removeFile(JOURNAL);
    const draft = `${PRIVATE}/${path.slice(-1)}.new`;
    await removeIfThere(storage, draft);
    await writeWhole(storage, draft, text, "file content");
    await storage.rename(draft, path);
  }
  if (faults.touchesNeighbour) await writeWhole(storage, "/data/neighbour", text, "neighbour");
  await storage.flushFolder("/data", "file names");
  await removeIfThere(storage, JOURNAL);
  await storage.flushFolder(PRIVATE, "journal removal");
}

async function recover(storage: Storage, faults: ToyFaults): Promise<void> {
  if (faults.restless) await writeWhole(storage, `${PRIVATE}/note`, String(storage.host.now()), "note");
  await removeIfThere(storage, DRAFT);
  for (const name of ["a.new", "b.new"]) {
    if (!(await storage.stat(JOURNAL))) await removeIfThere(storage, `${PRIVATE}/${name}`);
  }
  if (!(await storage.stat(JOURNAL))) return;
  const [sum, text = ""] = (await readText(storage, JOURNAL)).split(" ");
  if (sum !== digest(text)) {
    if (faults.ignoresDamage) return await storage.removeFile(JOURNAL);
    throw new ImgtxError("E_JOURNAL", "the journal is damaged", { image: JOURNAL });
  }
  // What was read may be in the page cache only; it has to be on the disk before anything follows it.
  const journal = await storage.openFile(JOURNAL, "write");
  await journal.flush("adopt journal content");
  await journal.close();
  await storage.flushFolder(PRIVATE, "adopt journal name");
  await finish(storage, text, faults);
}

async function writeWhole(storage: Storage, path: string, text: string, purpose: string): Promise<void> {
  const exists = await storage.stat(path);
  const file = exists ? await storage.openFile(path, "write") : await storage.createFile(path, 0o644);
  await file.truncate(0);
  await file.write(Buffer.from(text), 0);
  await file.flush(purpose);
  await file.close();
}

async function readText(storage: Storage, path: string): Promise<string> {
  const file = await storage.openFile(path, "read");
  const bytes = Buffer.alloc((await file.stat()).sizeBytes);
  await file.read(bytes, 0);
  await file.close();
  return bytes.toString("latin1");
}

async function removeIfThere(storage: Storage, path: string): Promise<void> {
  if (await storage.stat(path)) await storage.removeFile(path);
}

function filesOf(tree: Tree): string {
  return [...tree.entries()]
    .filter(({ path }) => !path.startsWith(PRIVATE))
    .map(({ path, inode }) => `${path} ${inode.kind} ${inode.mode} ${inode.content.digest()}`)
    .join("\n");
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

export function toyJournals(tree: Tree): string[] {
  return [...tree.entries()].map(({ path }) => path).filter((path) => path === JOURNAL);
}
