// No command makes a device vanish from `devices`.

import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, realpathSync } from "node:fs";
import { expect, test } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

/** x/a over x/base and y/b over y/base, by the same relative name. */
function makeTwins(): Workbench {
  const bench = new Workbench(makeFolder());
  for (const [folder, top, seed] of [
    ["x", "a", 1],
    ["y", "b", 2],
  ] as const) {
    bench.makeQcow2(`${folder}/base`, seed);
    bench.makeQcow2(`${folder}/${top}`, seed, { name: "base", format: "qcow2" });
  }
  return bench;
}

test("a device whose relative names meet another's is not added, and neither is it in a dry run", async () => {
  const bench = makeTwins();
  await bench.add("vda", "x/a");
  const request = {
    kind: "device-add",
    device: "vdb",
    file: bench.at("y/b"),
    format: undefined,
    allowPaths: [],
  } as const;
  for (const dryRun of [true, false]) {
    const failure = await failureOf(async () => await bench.run(request, { standalone: true, dryRun }));
    expect(failure).toMatchObject({ code: "E_REFUSED", exitCode: 14, device: "vdb", image: bench.at("y/b") });
    expect(await bench.images()).toEqual({ vda: "x/a" });
    expect(realpathSync(bench.at("devices/vda"))).toBe(bench.at("x/a"));
  }
  expect(readdirSync(bench.at(".imgtx/journal"))).toEqual([]);
});

oracle("qemu-img").test("and is when the command of the hint has made the name absolute", async () => {
  const bench = makeTwins();
  await bench.add("vda", "x/a");
  const failure = await failureOf(async () => await bench.add("vdb", "y/b"));
  const command = /`(qemu-img rebase .*?)`/.exec(failure.hint ?? "")?.[1] ?? "false";
  execFileSync("sh", ["-c", command]);
  await bench.add("vdb", "y/b");
  expect(realpathSync(bench.at("devices/vdb"))).toBe(bench.at("y/b"));
});

test("a new device does not take the place of an image that another one looks up", async () => {
  const bench = makeTwins();
  await bench.add("vda", "x/a");
  bench.makeQcow2("other", 5);
  const failure = await failureOf(async () => await bench.add("base", "other"));
  expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda" });
  await bench.add("base2", "other");
});

test("a group snapshot by relative names that meet is refused, and leaves nothing", async () => {
  const bench = new Workbench(makeFolder());
  bench.makeQcow2("x/disk", 1);
  bench.makeQcow2("y/disk", 2);
  await bench.add("vda", "x/disk");
  await bench.add("vdb", "y/disk");
  const files = { vda: "x/s1", vdb: "y/s1" };
  const failure = await failureOf(async () => await bench.snapshot(files, { relative: true }));
  expect(failure).toMatchObject({ code: "E_REFUSED" });
  expect(failure.hint).toContain("leave --relative out");
  expect(existsSync(bench.at("x/s1"))).toBe(false);
  expect(existsSync(bench.at("y/s1"))).toBe(false);
  await bench.snapshot(files);
  expect(realpathSync(bench.at("devices/vdb"))).toBe(bench.at("y/s1"));
});
