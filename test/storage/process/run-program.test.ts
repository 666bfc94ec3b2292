// A program that works for a transaction: how it ends, and the lock that it holds.

import { expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const { host } = makeNodeStorage();
const LONG_MS = 900_000;

async function run(script: string, limitMs = LONG_MS) {
  const how = { env: { WORD: "from outside" }, limitMs, holding: undefined };
  return await host.runProgram?.(["/bin/sh", "-c", script], how);
}

test("tells how it ended, and what it printed", async () => {
  expect(await run('echo "$WORD" >&2; pwd; exit 3')).toEqual({
    kind: "exited",
    status: 3,
    printed: expect.stringMatching(/^(from outside\n\/|\/\nfrom outside)$/) as string,
  });
  expect(await run("kill -TERM $$")).toMatchObject({ kind: "killed", why: "SIGTERM" });
  expect(
    await host.runProgram?.(["/no/program"], { env: {}, limitMs: LONG_MS, holding: undefined }),
  ).toMatchObject({
    kind: "not started",
    why: expect.stringContaining("ENOENT") as string,
  });
});

test("is ended at its limit, with what it has started", async () => {
  expect(await run("sleep 1000 & sleep 1000", 1)).toMatchObject({ kind: "late" });
});

test("goes on when it leaves something at work that has its outputs open", async () => {
  const left = await run("sleep 1000 & echo $!");
  expect(left).toMatchObject({ kind: "exited", status: 0 });
  process.kill(Number(left?.printed));
});

test("holds the lock of the file that it was given until it ends", async () => {
  const storage = makeNodeStorage();
  const file = await storage.createFile(`${makeFolder()}/journal`, 0o600);
  const range = { start: 0, lengthBytes: 1 };
  expect(file.lock(range, "exclusive")).toBe(true);
  const other = await storage.openFile(file.path, "write");
  const how = { env: {}, limitMs: LONG_MS, holding: file };
  const left = await host.runProgram?.(["/bin/sh", "-c", "sleep 1000 & echo $!"], how);
  await file.close();
  const isHeld = other.wouldConflict(range, "exclusive");
  process.kill(Number(left?.printed));
  expect(isHeld).toBe(true);
  await other.close();
});
