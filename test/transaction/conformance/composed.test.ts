// Several actions on one device in one transaction, merges and pulls among them: the device shows what it showed, and is
// as each of the actions by itself would leave it, one after the other.

import { existsSync } from "node:fs";
import { describe, expect } from "vitest";
import type { ActionRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import {
  compareWithBefore,
  makeChain,
  type MergeChoice,
  mergeRequest,
} from "../../helpers/transaction/merging.ts";
import {
  IDENTICAL,
  infoOf,
  judge,
  mirror,
  mirrorRequest,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { pull, rebase } from "../../helpers/transaction/new-backings.ts";
import type { Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-io");
const NAMES = ["base.qcow2", "a.qcow2", "b.qcow2"];
const M = 2 ** 20;

type Make = (bench: Workbench) => ActionRequest;

const merge =
  (how: MergeChoice = {}): Make =>
  (bench) =>
    mergeRequest(bench, ["vda"], how);
const snapshot =
  (name: string): Make =>
  (bench) =>
    bench.snapshotRequest({ vda: name });
const resize =
  (sizeBytes: number, shrink = false): Make =>
  () => ({ kind: "resize", device: "vda", sizeBytes, isRelative: false, shrink, force: shrink });
const internal = (): Extract<ActionRequest, { readonly snapshot: string }> => ({
  kind: "internal-snapshot-create",
  devices: ["vda"],
  snapshot: "one",
});
const bitmap = (): ActionRequest => ({
  kind: "bitmap-add",
  devices: ["vda"],
  bitmap: "backup",
  isDisabled: false,
  sources: [],
});
const amend =
  (amendment: Extract<ActionRequest, { readonly kind: "amend" }>["amendment"]): Make =>
  () => ({ kind: "amend", devices: ["vda"], amendment });
const pullTo =
  (base?: string): Make =>
  (bench) =>
    pull(["vda"], base === undefined ? undefined : bench.at(base));

/** What is done, and the images of the device's chain then. */
const COMPOSED: Readonly<Record<string, readonly [readonly Make[], readonly string[]]>> = {
  "snapshot, merge": [
    [snapshot("c.qcow2"), merge()],
    ["b.qcow2", "a.qcow2", "base.qcow2"],
  ],
  "snapshot, snapshot, merge": [
    [snapshot("c.qcow2"), snapshot("d.qcow2"), merge()],
    ["c.qcow2", "b.qcow2", "a.qcow2", "base.qcow2"],
  ],
  "snapshot, merge of what is below": [
    [snapshot("c.qcow2"), merge({ from: "b.qcow2" })],
    ["c.qcow2", "a.qcow2", "base.qcow2"],
  ],
  "merge, merge": [[merge(), merge()], ["base.qcow2"]],
  "resize, merge, resize, merge": [[resize(5 * M), merge(), resize(6 * M), merge()], ["base.qcow2"]],
  "merge, snapshot": [
    [merge(), snapshot("c.qcow2")],
    ["c.qcow2", "a.qcow2", "base.qcow2"],
  ],
  "merge, resize": [
    [merge(), resize(8 * M)],
    ["a.qcow2", "base.qcow2"],
  ],
  "merge, bitmap": [
    [merge(), bitmap],
    ["a.qcow2", "base.qcow2"],
  ],
  "merge, resize, internal snapshot": [
    [merge(), resize(8 * M), internal],
    ["a.qcow2", "base.qcow2"],
  ],
  "merge, merge, mirror": [
    [merge(), merge(), (bench) => mirrorRequest(bench, { vda: "m.qcow2" })],
    ["base.qcow2"],
  ],
  "merges in the middle, one after the other": [
    [snapshot("c.qcow2"), merge({ from: "b.qcow2" }), merge({ from: "a.qcow2" })],
    ["c.qcow2", "base.qcow2"],
  ],
  "resize, merge in the middle, resize": [
    [resize(5 * M), merge({ from: "a.qcow2" }), resize(6 * M)],
    ["b.qcow2", "base.qcow2"],
  ],
  "pull, internal snapshot": [[pullTo(), internal], ["b.qcow2"]],
  "pull to a base, pull": [[pullTo("base.qcow2"), pullTo()], ["b.qcow2"]],
  "resize, pull": [[resize(8 * M), pullTo()], ["b.qcow2"]],
  "pull, resize, bitmap": [
    [pullTo("base.qcow2"), resize(8 * M), bitmap],
    ["b.qcow2", "base.qcow2"],
  ],
  "pull, snapshot": [
    [pullTo("base.qcow2"), snapshot("c.qcow2")],
    ["c.qcow2", "b.qcow2", "base.qcow2"],
  ],
  "snapshot, pull": [
    [snapshot("c.qcow2"), pullTo("a.qcow2")],
    ["c.qcow2", "a.qcow2", "base.qcow2"],
  ],
  "rebase, snapshot, resize": [
    [(bench) => rebase("vda", bench.at("base.qcow2")), snapshot("c.qcow2"), resize(5 * M)],
    ["c.qcow2", "b.qcow2", "base.qcow2"],
  ],
};

/** Those in which an image is changed by a log, where no fence can be. */
const TRIED_OLD: ReadonlySet<string> = new Set([
  "resize, merge, resize, merge",
  "merge, resize, internal snapshot",
  "resize, merge in the middle, resize",
  "pull, internal snapshot",
  "snapshot, pull",
]);

function shown(bench: Workbench, image: string): string {
  const compare = run("qemu-img", "compare", image, bench.at("before.raw"));
  return compare.output.replace(/^Warning.*\n/m, "").trim();
}

describe("in one transaction", () => {
  for (const isOld of [false, true]) {
    const words = isOld ? ["-o", "compat=0.10"] : [];
    qemu.test.each(Object.entries(COMPOSED).filter(([name]) => !isOld || TRIED_OLD.has(name)))(
      `%s leaves the device as it was${isOld ? ", in version 2" : ""}`,
      async (_, [makers, chain]) => {
        const bench = await makeChain(NAMES, { words });
        await bench.begin();
        for (const make of makers) await bench.run(make(bench));
        await bench.commit();
        const [device] = await bench.devices();
        expect(device?.chain.map(({ image }) => image)).toEqual(chain.map((name) => bench.at(name)));
        const image = bench.at(chain[0] ?? "");
        expect(shown(bench, image)).toBe(IDENTICAL);
        for (const name of chain) runWell("qemu-img", "check", "-q", bench.at(name));
        const sizes = makers.flatMap((make) => {
          const request = make(bench);
          return request.kind === "resize" ? [request.sizeBytes] : [];
        });
        expect(infoOf(image)["virtual-size"]).toBe(sizes.at(-1) ?? 4 * M);
        if (makers.includes(internal)) {
          runWell("qemu-img", "convert", "-l", "one", "-O", "raw", image, bench.at("then.raw"));
          expect(shown(bench, bench.at("then.raw"))).toBe(IDENTICAL);
        }
        if (makers.includes(bitmap)) expect(JSON.stringify(infoOf(image))).toContain('"backup"');
        for (const gone of NAMES.filter((name) => !chain.includes(name))) {
          const isPulled = makers.some((make) => ["pull", "rebase"].includes(make(bench).kind));
          expect(existsSync(bench.at(gone)), gone).toBe(isPulled);
        }
        const session = await bench.session();
        expect(session.recovered).toEqual([]);
      },
    );
  }

  qemu.test.each([
    ["what would come before the copy and has to follow it", [merge(), resize(1 * M, true)]],
    [
      "a freeze, whose fence the copy would lift",
      [merge(), () => ({ kind: "freeze", devices: ["vda"], strict: false })],
    ],
    ["a pull into what is merged into", [merge(), pullTo()]],
    ["a merge into what is merged into", [merge(), snapshot("c.qcow2"), merge()]],
    ["a merge of what is pulled into", [pullTo("a.qcow2"), rebaseOnto("base.qcow2"), merge()]],
    [
      "a second internal snapshot of what comes",
      [merge(), internal, () => ({ ...internal(), snapshot: "two" })],
    ],
    ["a merge of what gets an internal snapshot", [merge(), internal, merge()]],
    ["a pull from what is merged into", [merge(), snapshot("c.qcow2"), pullTo()]],
    [
      "a rebase from what is pulled into",
      [pullTo("base.qcow2"), snapshot("c.qcow2"), rebaseOnto("base.qcow2")],
    ],
    ["a pull into what becomes one of version 2", [amend({ version: 2 }), pullTo()]],
    [
      "an internal snapshot of what comes, where counts are narrow",
      [amend({ refcountOrder: 3 }), pullTo(), internal],
    ],
    ["a second change after an internal snapshot of what comes", [merge(), internal, resize(8 * M)]],
    [
      "a move to another image, which would leave what comes",
      [
        (bench) => {
          runWell("qemu-img", "create", "-q", "-f", "qcow2", bench.at("other.qcow2"), "4M");
          return merge()(bench);
        },
        (bench) => ({
          kind: "reopen",
          device: "vda",
          file: bench.at("other.qcow2"),
          format: "qcow2",
          force: false,
        }),
      ],
    ],
    ["a merge into an image on which a kept one stands", [merge({ keep: true }), merge()]],
  ] as readonly (readonly [string, readonly Make[]])[])(
    "%s is refused, and the rest commits",
    async (_, makers) => {
      const bench = await makeChain(NAMES);
      await bench.begin();
      for (const make of makers.slice(0, -1)) await bench.run(make(bench));
      const before = snapshotWorkspace(bench.root);
      const failure = await failureOf(async () => await bench.run(makers.at(-1)!(bench)));
      expect(failure).toMatchObject({ changed: false });
      expect(["E_REFUSED", "E_IN_USE"]).toContain(failure.code);
      expect(snapshotWorkspace(bench.root)).toEqual(before);
      await bench.commit();
      expect(await compareWithBefore(bench)).toBe(IDENTICAL);
    },
  );

  // The image that the device leaves is changed when the table has moved, and read before that.
  qemu.test.each([
    ["a pull", pullTo()],
    ["a pull down to a base", pullTo("base.qcow2")],
    ["a rebase", rebaseOnto("base.qcow2")],
  ] as const)("%s from an image that went back has what it went back to", async (_, up) => {
    const bench = await makeChain(NAMES);
    runWell("qemu-img", "snapshot", "-c", "one", bench.at("b.qcow2"));
    writeGuest(bench.at("b.qcow2"), "qcow2", "write -P 99 0 4M");
    const back = { kind: "internal-snapshot-apply", devices: ["vda"], snapshot: "one" } as const;
    await bench.begin();
    for (const request of [back, snapshot("c.qcow2")(bench), up(bench)]) await bench.run(request);
    await bench.commit();
    for (const name of ["b.qcow2", "c.qcow2"]) expect(shown(bench, bench.at(name))).toBe(IDENTICAL);
    runWell("qemu-img", "check", "-q", bench.at("c.qcow2"));
  });

  // The data file has a log, which is applied before: what is pulled is written to the file itself.
  qemu.test("a pull into an image with a data file, and another size of it", async () => {
    const bench = await makeChain(NAMES);
    const top = bench.at("d.qcow2");
    const words = ["-b", bench.at("b.qcow2"), "-F", "qcow2", "-o", `data_file=${bench.at("d.data")}`];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", ...words, top);
    await bench.run({ kind: "reopen", device: "vda", file: top, format: "qcow2", force: false });
    await bench.begin();
    for (const make of [pullTo(), resize(5 * M)]) await bench.run(make(bench));
    await bench.commit();
    expect(shown(bench, top)).toBe(IDENTICAL);
    expect(infoOf(top)).toMatchObject({ "virtual-size": 5 * M });
    runWell("qemu-img", "check", "-q", top);
  });

  qemu.test("all of it is taken back by an abort", async () => {
    const bench = await makeChain(NAMES);
    const before = snapshotWorkspace(bench.root);
    for (const makers of [
      [resize(5 * M), merge(), snapshot("c.qcow2"), internal],
      [resize(5 * M), snapshot("c.qcow2"), pullTo("base.qcow2"), internal],
    ]) {
      await bench.begin();
      for (const make of makers) await bench.run(make(bench));
      await bench.abort();
      expect(snapshotWorkspace(bench.root)).toEqual(before);
    }
  });
});

describe("a mirror", () => {
  qemu.test("stays in sync when its device's images are merged, pulled or rebased", async () => {
    const bench = await makeChain(NAMES);
    await bench.snapshot({ vda: "c.qcow2" });
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    for (const make of [merge(), pullTo("base.qcow2"), rebaseOnto("a.qcow2"), merge({ from: "a.qcow2" })]) {
      const { kind } = make(bench);
      await bench.run(make(bench));
      const again = await mirror(bench, { vda: undefined });
      expect(JSON.stringify(again.actions), kind).toContain("in sync");
      expect(JSON.stringify(again.actions), kind).not.toContain("compared");
      expect(await judge(bench, "vda")).toBe(IDENTICAL);
    }
  });

  qemu.test(
    "that was behind is compared, and one that stands on what changes has the merge refused",
    async () => {
      const bench = await makeChain(NAMES);
      await mirror(bench, { vda: "m.qcow2" });
      writeGuest(bench.at("b.qcow2"), "qcow2", "write -P 77 1M 64k");
      await bench.run(mergeRequest(bench, ["vda"]));
      await mirror(bench, { vda: undefined });
      expect(await judge(bench, "vda")).toBe(IDENTICAL);
      await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
      await mirror(bench, { vda: "s.qcow2" }, { sync: "top" });
      const failure = await failureOf(async () => await bench.run(mergeRequest(bench, ["vda"])));
      expect(failure).toMatchObject({
        code: "E_IN_USE",
        message: expect.stringContaining("s.qcow2") as string,
      });
    },
  );
});

function rebaseOnto(name: string): Make {
  return (bench) => rebase("vda", bench.at(name));
}
