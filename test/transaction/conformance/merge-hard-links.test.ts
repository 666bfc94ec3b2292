// Images that have another name (a hard link), as a copy of a folder by links gives them: that one is no copy, which
// is said, and it can be opened as before when the image's own name has gone.

import { existsSync, linkSync, mkdirSync, readFileSync } from "node:fs";
import { expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { runWell } from "../../helpers/qemu-programs.ts";
import { makeChain, mergeRequest } from "../../helpers/transaction/merging.ts";

const qemu = oracle("qemu-img");

qemu.test(
  "what goes leaves its other name as it was, and what is merged into says that it has one",
  async () => {
    const bench = await makeChain(["base.qcow2", "top.qcow2"]);
    mkdirSync(bench.at("links"));
    for (const name of ["base.qcow2", "top.qcow2"]) linkSync(bench.at(name), bench.at(`links/${name}`));
    const before = readFileSync(bench.at("top.qcow2"));
    const { actions } = await bench.run(mergeRequest(bench, ["vda"]));
    expect(actions[0]?.notes).toContainEqual(expect.stringContaining("base.qcow2 has 2 names (hard links)"));
    expect(actions[0]?.notes).not.toContainEqual(expect.stringContaining("top.qcow2 has 2 names"));
    expect(existsSync(bench.at("top.qcow2"))).toBe(false);
    expect(readFileSync(bench.at("links/top.qcow2"))).toEqual(before);
    runWell("qemu-img", "compare", bench.at("links/top.qcow2"), bench.at("before.raw"));
  },
);
