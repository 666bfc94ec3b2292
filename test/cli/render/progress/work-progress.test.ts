// How far the copying of devices is told: on request, as JSON, as a bar, and not at all where nobody asked.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { startWorkProgress } from "../../../../src/cli/render/progress/work-progress.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { watchStorage } from "../../../helpers/storage/watched-storage.ts";
import { runCli } from "../../../helpers/cli/harness.ts";

const MIB = 1024 * 1024;

/** A progress whose output is kept, and which can be asked as SIGUSR1 does. */
function start({
  asJson = false,
  json = false,
  quiet = false,
  columns = undefined as number | undefined,
} = {}) {
  const written: string[] = [];
  let ask: (() => void) | undefined;
  const progress = startWorkProgress(
    {
      stderr: { write: (text: string) => void written.push(text), isTTY: columns !== undefined, columns },
      env: { TERM: "xterm" },
      onProgressRequest(handler) {
        ask = handler;
        return () => {
          ask = undefined;
        };
      },
    },
    { asJson, json, quiet },
  );
  return { progress, written, ask: () => ask?.() };
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["performance"] });
});

afterEach(() => {
  vi.useRealTimers();
});

describe("a request", () => {
  test("is answered with the sum of all parts, and what is under way", () => {
    const { progress, written, ask } = start({ quiet: true });
    ask(); // of no work yet: the process answers by itself
    progress.update("comparing vda", 4 * MIB, 4 * MIB);
    progress.update("copying vda", MIB, 2 * MIB);
    progress.update("merging into /srv/a\nb", 0, MIB);
    ask();
    expect(written).toEqual(["imgtx: 5 MiB of 7 MiB done, copying vda, merging into /srv/a\\u{a}b\n"]);
  });

  test.each([
    ["its progress", { asJson: true }],
    ["all that it prints", { json: true }],
  ])("is answered as JSON where %s is asked for so", (_what, how) => {
    const { progress, written, ask } = start(how);
    ask();
    progress.update("copying vda", MIB, 2 * MIB);
    ask();
    expect(written.map((line) => JSON.parse(line) as unknown)).toEqual([
      { schema: 1, progress: { done: 0, total: 0 } },
      { schema: 1, progress: { done: MIB, total: 2 * MIB } },
    ]);
  });

  test("is not answered any more past the end", () => {
    const { progress, written, ask } = start();
    progress.stop();
    ask();
    expect(written).toEqual([]);
  });
});

test("as JSON there is an object each second, and one at the end", () => {
  const { progress, written } = start({ asJson: true, columns: 80 });
  progress.update("copying vda", 0, 3 * MIB);
  vi.advanceTimersByTime(1000);
  progress.update("copying vda", MIB, 3 * MIB);
  vi.advanceTimersByTime(500);
  progress.update("copying vda", 2 * MIB, 3 * MIB);
  progress.update("copying vda", 3 * MIB, 3 * MIB);
  progress.stop();
  expect(written.map((line) => JSON.parse(line) as unknown)).toEqual([
    { schema: 1, progress: { done: MIB, total: 3 * MIB } },
    { schema: 1, progress: { done: 3 * MIB, total: 3 * MIB } },
  ]);
});

describe("the bar", () => {
  test("comes after a while, and goes at the end", () => {
    const { progress, written } = start({ columns: 40 });
    progress.update("copying vda", MIB, 4 * MIB);
    vi.advanceTimersByTime(400);
    progress.update("copying vda", 2 * MIB, 4 * MIB);
    progress.stop();
    expect(written).toHaveLength(2);
    expect(written[0]).toContain("[############------------]  50 %");
    expect(written[0]?.length).toBeLessThanOrEqual(40 + "\r\u001b[K".length);
    expect(written[1]).toBe("\r\u001b[K");
  });

  test.each([
    ["off a terminal", {}],
    ["when all is to be quiet", { quiet: true, columns: 80 }],
    ["on a terminal of no width", { columns: 0 }],
  ])("is not there %s", (_, how) => {
    const { progress, written } = start(how);
    vi.advanceTimersByTime(400);
    progress.update("copying vda", 2 * MIB, 4 * MIB);
    progress.stop();
    expect(written).toEqual([]);
  });
});

describe("--progress json is told of every command that copies:", () => {
  let folder = "";

  beforeAll(async () => {
    folder = await mkdtemp(`${tmpdir()}/imgtx-progress-`);
    await writeFile(`${folder}/a.raw`, Buffer.alloc(4 * MIB, "guest"));
    await well(["device", "add", "vda", "a.raw", "--format", "raw"]);
  });

  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  test("and a request amid a mirror is answered, off any terminal and under --quiet", async () => {
    let request: (() => void) | undefined;
    let asked = 0;
    const storage = watchStorage(makeNodeStorage(), ({ path }) => {
      if (request === undefined || !path.includes("/.imgtx-") || asked > 0) return;
      asked += 1;
      request();
    });
    const { status, stderr } = await runCli(
      ["mirror", "vda", "asked.qcow2", "--format", "qcow2", "--compress", "--quiet"],
      {
        cwd: folder,
        storage,
        onProgressRequest: (handler) => {
          request = handler;
          return () => {
            request = undefined;
          };
        },
      },
    );
    expect({ status, asked }).toEqual({ status: 0, asked: 1 });
    expect(stderr).toMatch(/^imgtx: [\d.]+ (B|KiB|MiB) of 4 MiB done, copying vda\n$/);
    await well(["mirror", "--cancel", "vda"]);
  });

  async function well(argv: readonly string[], stdin = ""): Promise<string> {
    const { status, stderr } = await runCli(argv, { cwd: folder, stdin });
    expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
    return stderr;
  }

  test.each([
    [["mirror", "vda", "m1.raw", "--progress", "json"], ""],
    [["--progress=json", "txn", "run", "-"], "mirror --cancel vda\nmirror vda m2.raw\n"],
    [["--progress=json", "img", "convert", "-f", "raw", "-O", "qcow2", "a.raw", "c.qcow2"], ""],
    [["--progress", "json", "img", "compare", "-f", "raw", "-F", "raw", "a.raw", "a.raw"], ""],
  ])("%j", async (argv, stdin) => {
    const lines = (await well(argv, stdin)).trimEnd().split("\n");
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) {
      expect(JSON.parse(line)).toEqual({
        schema: 1,
        progress: { done: expect.any(Number), total: expect.any(Number) },
      });
    }
    const { progress } = JSON.parse(lines.at(-1) ?? "") as { progress: { done: number; total: number } };
    expect(progress.total).toBeGreaterThan(0);
    expect(progress.done).toBe(progress.total);
  });
});
