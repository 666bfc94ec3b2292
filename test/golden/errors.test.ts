// Every code of an error once, as an operator meets it: what was run, what it says, what it hints at, and its exit status.
// One page shows them all, pages/errors.txt; each comes about here as it does on a disk, and none is missing from it, nor from
// imgtx-json(7). And each message has one home. `npx vitest run test/golden --update` writes the page anew.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { EXIT_OF_CODE, ImgtxError, type ErrorCode } from "../../src/errors/index.ts";
import { acquireImageLocks, makeNodeStorage, type Storage } from "../../src/storage/index.ts";
import { makeAction, makeInterrupts, makeOutcome, runCli, type RunSetting } from "../helpers/cli/harness.ts";
import { makeOverlay, makeRaw } from "../helpers/make-image.ts";
import { sampleQcow2 } from "../helpers/sample-image.ts";
import { type Call, failAt } from "../helpers/storage/watched-storage.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";
import { atNthAfterMark } from "../helpers/transaction/mirroring.ts";

const SOURCE = fileURLToPath(new URL("../../src", import.meta.url));
const read = (file: string): string => readFileSync(new URL(file, import.meta.url), "utf8");

/** In a folder that holds a.qcow2, as vda, and b.raw. */
interface Sample {
  readonly line: string;
  /** Lines that come before it, and succeed. */
  readonly before?: readonly string[];
  /** A line that is at work while it runs, as long as its first new image is not made. */
  readonly during?: string;
  /** What is different then. */
  readonly setting?: (folder: string) => RunSetting | Promise<RunSetting>;
}

const engineThrowing = (error: Error): RunSetting => ({
  engine: {
    runActions: () => {
      throw error;
    },
  },
});

/** A disk that fails where a call matches. */
const failing = (error: ImgtxError, matches: (call: Call) => boolean): RunSetting => ({
  storage: failAt(makeNodeStorage(), matches, error),
});

const isNewImage = ({ name, path }: Call): boolean => name === "createFile" && !path.includes("/.imgtx/");
const isOpened = ({ name, path }: Call): boolean => name === "openFile" && path.endsWith("/b.raw");

/** Does something before the first new image is made. */
function onNewImage(work: () => Promise<void> | void): Storage {
  const storage = makeNodeStorage();
  let isDone = false;
  return {
    ...storage,
    createFile: async (path, ...parameters) => {
      if (!isDone && isNewImage({ name: "createFile", path, purpose: undefined })) {
        isDone = true;
        await work();
      }
      return await storage.createFile(path, ...parameters);
    },
  };
}

function interruptedBy(name: "SIGINT" | "SIGTERM"): RunSetting {
  const { onInterrupt, send } = makeInterrupts();
  return { onInterrupt, storage: onNewImage(() => send(name)) };
}

function patch(path: string, at: number, byte: number): void {
  const content = readFileSync(path);
  content[at] = byte;
  writeFileSync(path, content);
}

/** A copy of a.qcow2 with a byte changed. */
const patched = (name: string, at: number, byte: number) => (folder: string) => {
  writeFileSync(`${folder}/${name}`, readFileSync(`${folder}/a.qcow2`));
  patch(`${folder}/${name}`, at, byte);
  return {};
};

const over = (name: string, backing: string, format: "raw" | "qcow2") => async (folder: string) => {
  await makeOverlay(`${folder}/${name}`, backing, format);
  return {};
};

/** A workspace that is another user's. */
function foreign(): RunSetting {
  const storage = makeNodeStorage();
  const ownerId = storage.host.userId + 1;
  const host = Object.create(storage.host, { nameOfUser: { value: () => "mallory" } }) as typeof storage.host;
  const theirs = <Stat extends object>(stat: Stat | undefined) =>
    stat && { ...stat, ownerId, groupId: ownerId };
  return {
    storage: {
      ...storage,
      host,
      stat: async (path) => theirs(await storage.stat(path)),
      statLink: async (path) => theirs(await storage.statLink(path)),
    },
  };
}

const SAMPLES: Readonly<Record<ErrorCode, Sample>> = {
  E_INTERNAL: { line: "rollback", setting: () => engineThrowing(new TypeError("the table is none")) },
  E_FAILED: {
    line: "snapshot vda",
    setting: () => ({ writeFailure: { reason: "No space left on device", readerGone: false } }),
  },
  E_COMMAND_FAILED: {
    line: "freeze vda -- ./backup",
    setting: () => ({
      spawn: async () => ({
        ended: Promise.resolve({ kind: "not-started", reason: "No such file or directory", status: 127 }),
        kill: () => undefined,
      }),
    }),
  },
  E_ROTTED: {
    line: "rollback",
    setting: () => ({
      engine: {
        runActions: async () =>
          makeOutcome({ actions: [makeAction({ device: "vda", rottedBytes: 65_536 })] }),
      },
    }),
  },
  E_LOCKED: {
    line: "snapshot vda",
    setting: async (folder) => {
      const storage = makeNodeStorage();
      const file = await storage.openFile(`${folder}/a.qcow2`, "write");
      onTestFinished(async () => await file.close());
      await acquireImageLocks(storage, [{ file, role: "writer" }], { waitMs: 0, onWait: () => undefined });
      return {};
    },
  },
  E_BUSY: { line: "snapshot vda", during: "snapshot vda" },
  E_TRANSACTION: { before: ["txn begin --name upgrade", "snapshot vda"], line: "snapshot vda --txn none" },
  E_NO_TRANSACTION: { line: "txn commit" },
  E_UNSUPPORTED: { line: "device add vdb new.qcow2", setting: patched("new.qcow2", 72, 0x80) },
  E_IO: {
    line: "snapshot vda",
    setting: () => failing(new ImgtxError("E_IO", "Input/output error"), isNewImage),
  },
  E_NO_SPACE: {
    line: "snapshot vda",
    setting: () => failing(new ImgtxError("E_NO_SPACE", "No space left on device"), isNewImage),
  },
  E_EXISTS: { line: "snapshot vda b.raw" },
  E_NOT_FOUND: { line: "device add vdb nothing.qcow2" },
  E_NOT_A_FILE: { line: "device add vdb b.raw/x --format raw" },
  E_NO_PERMISSION: {
    line: "device add vdb b.raw --format raw",
    setting: (folder) =>
      failing(new ImgtxError("E_NO_PERMISSION", "Permission denied", { image: `${folder}/b.raw` }), isOpened),
  },
  E_READ_ONLY: {
    line: "snapshot vda",
    setting: (folder) =>
      failing(new ImgtxError("E_READ_ONLY", "Read-only file system", { image: `${folder}/a` }), isNewImage),
  },
  E_NO_WORKSPACE: { line: "--workspace /usr tree" },
  E_NOT_OWNER: { line: "snapshot vda", setting: foreign },
  E_NO_DEVICE: { line: "snapshot vdc" },
  E_DUPLICATE: { line: "snapshot-group vda vda" },
  E_FORMAT_UNKNOWN: { line: "device add vdb b.raw" },
  E_OUTSIDE: { line: "device add vdb out.qcow2", setting: over("out.qcow2", "/etc/hostname", "raw") },
  E_LOOP: { line: "device add vdb loop.qcow2", setting: over("loop.qcow2", "loop.qcow2", "qcow2") },
  E_IN_USE: { before: ["snapshot vda"], line: "device add vdb a.qcow2" },
  E_CHANGED: {
    before: ["txn begin --name upgrade", "snapshot vda"],
    line: "txn commit",
    setting: (folder) => {
      patch(`${folder}/a.qcow2`, 32_768, 0xff);
      return {};
    },
  },
  E_REFUSED: { line: "resize vda 64k" },
  E_CORRUPT: { line: "device add vdb bad.qcow2", setting: patched("bad.qcow2", 40, 0xff) },
  E_JOURNAL: {
    before: ["txn begin --name upgrade", "snapshot vda"],
    line: "recover",
    setting: (folder) => {
      const [journal = ""] = readdirSync(`${folder}/.imgtx/journal`);
      const path = `${folder}/.imgtx/journal/${journal}`;
      patch(path, readFileSync(path).indexOf('"newFiles"') + 3, 0);
      return {};
    },
  },
  E_UNFINISHED: {
    line: "internal-snapshot create vda one",
    setting: () =>
      failing(new ImgtxError("E_IO", "Input/output error"), atNthAfterMark("file.write", "/a.qcow2", 2)),
  },
  E_USAGE: { line: "snapshto vda" },
  E_INTERRUPTED: { line: "snapshot vda", setting: () => interruptedBy("SIGINT") },
  E_TERMINATED: { line: "snapshot vda", setting: () => interruptedBy("SIGTERM") },
};

/** What a sample prints, and ends with; the code that its JSON says. */
async function meet({
  line,
  before = [],
  during,
  setting,
}: Sample): Promise<{ said: string; code: unknown }> {
  let code: unknown;
  const meetOnce = async (words: readonly string[]): Promise<string> => {
    const cwd = makeFolder();
    const image = { virtualSizeBytes: 192 * 1024, dataClusters: [0, 3], seed: 1 };
    writeFileSync(`${cwd}/a.qcow2`, sampleQcow2(image));
    makeRaw(`${cwd}/b.raw`);
    const well = async (each: string, storage?: Storage): Promise<void> => {
      const result = await runCli(each.split(" "), { cwd, ...(storage && { storage }) });
      expect(result, each).toMatchObject({ status: 0 });
    };
    for (const each of ["device add vda a.qcow2", ...before]) await well(each);
    const own = { cwd, ...(await setting?.(cwd)) };
    const run = async () => await runCli([...words, ...line.split(" ")], own);
    let result = during === undefined ? await run() : undefined;
    if (during !== undefined) {
      const storage = onNewImage(async () => {
        result = await run();
      });
      await well(during, storage);
    }
    const { stderr = "", status = -1 } = result ?? {};
    const told = words.includes("--json") ? stderr.trimEnd().split("\n").at(-1) : stderr;
    return `${told ?? ""}[${status}]`.replaceAll(cwd, "/srv");
  };
  const said = await meetOnce([]);
  const [json = ""] = (await meetOnce(["--json"])).split(/\[\d+\]$/);
  code = (JSON.parse(json) as { error: { code: string } }).error.code;
  return { said, code };
}

/** The test itself has a lock: nobody names himself, and the single file, a process of its own, names the test. */
function filter(text: string): string {
  return text
    .replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ by [^\n;,]*/g, "2012-03-05 14:03:11Z by operator")
    .replaceAll(/(?<=modified )\S.*Z(?=\n)/g, "10:00:00 → 11:00:00Z")
    .replaceAll(/\bpid \d+(, \w+)?( \([^)]*\))?/g, "pid 4711 (imgtx)")
    .replaceAll(/a process that \/proc does not show \([^)]*\)/g, "pid 4711 (imgtx)")
    .replaceAll(/(?<=journal, offset )0x[0-9a-f]+/g, "0x400")
    .replaceAll(
      /(?<=(?:transaction |--txn |txn commit |txn abort |--give-up |journal\/))[a-z0-9]{10}\b/g,
      "7f3k2m9qa1",
    );
}

test("the page of errors has each code with what is said of it, and reads as it did", async () => {
  const parts: string[] = [];
  for (const [name, exit] of Object.entries(EXIT_OF_CODE)) {
    const sample = SAMPLES[name as ErrorCode];
    const { said, code } = await meet(sample);
    expect(code, said).toBe(name);
    const lines = [...(sample.before ?? []), sample.line].map((line) => `$ imgtx ${line}`);
    parts.push(`${name} (${exit})`, ...lines, said, "");
  }
  await expect(filter(parts.join("\n"))).toMatchFileSnapshot("pages/errors.txt");
});

test("imgtx-json(7) has each code with its exit status, and no other", () => {
  const page = read("../../man/imgtx-json.7");
  const told = [...page.matchAll(/^\.It Dv (E_[A-Z_]+) Ta (\d+) Ta ./gm)].map(([, code, exit]) => [
    code,
    Number(exit),
  ]);
  expect(told).toEqual(Object.entries(EXIT_OF_CODE));
});

// What all who open a file say of what the system said, and what only joins two texts.
const FRAMES = new Set(["Could not open '…': …", "…: …"]);

test("each message has one home: who throws it anew from elsewhere takes it from there", () => {
  const homes = new Map<string, string[]>();
  for (const file of readdirSync(SOURCE, { recursive: true, encoding: "utf8" })) {
    if (!file.endsWith(".ts")) continue;
    const thrown = read(`../../src/${file}`).matchAll(
      /new ImgtxError\(\s*[^,()]+,\s*("(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`)/g,
    );
    for (const [, text = ""] of thrown) {
      const message = text.slice(1, -1).replaceAll(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, "…");
      // Cut off within a text of its own.
      if (message.includes("${")) continue;
      homes.set(message, [...(homes.get(message) ?? []), file]);
    }
  }
  expect(homes.size).toBeGreaterThan(500);
  expect([...homes].filter(([message, files]) => files.length > 1 && !FRAMES.has(message))).toEqual([]);
});
