// Lists for people have local times, JSON has UTC, and a time that was printed leads back to where it was.

import { writeFileSync } from "node:fs";
import { afterEach, expect, test, vi } from "vitest";
import { runCli } from "../../helpers/cli/harness.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

afterEach(() => {
  vi.unstubAllEnvs();
});

test("what snapshot-list prints in one time zone is what rollback --to takes in another", async () => {
  const cwd = makeFolder();
  writeFileSync(`${cwd}/a.raw`, new Uint8Array(65_536));
  const run = async (...argv: string[]): Promise<string> => {
    const { status, stdout, stderr } = await runCli(argv, { cwd });
    expect([status, stderr]).toEqual([0, ""]);
    return stdout;
  };
  await run("device", "add", "vda", "a.raw", "--format", "raw", "-q");
  vi.stubEnv("TZ", "Asia/Kolkata");
  await run("snapshot", "vda", "--name", "one");
  const { snapshots } = JSON.parse(await run("snapshot-list", "--json")) as {
    snapshots: { created: string }[];
  };
  const created = snapshots[0]?.created ?? "";
  expect(await run("snapshot-list", "vda", "-n", "1", "-q")).toBe("one\n");
  const local = `${new Date(Date.parse(created) + 330 * 60_000).toISOString().slice(0, 19).replace("T", " ")}+05:30`;
  expect(created).toMatch(/Z$/);
  for (const list of ["snapshot-list", "history"]) expect(await run(list)).toContain(local);
  vi.stubEnv("TZ", "America/New_York");
  expect(await run("rollback", "--to", local, "--dry-run")).toContain("a.raw");
});
