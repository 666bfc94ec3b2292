// imgtx tree: one drawing of all images, on terminals of any width and in any locale, and as a graph.

import { renameSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { TreeDescription, TreeImage } from "../../../src/transaction/index.ts";
import { makeAction, makeDevice, makeOutcome, runCli, type RunSetting } from "../../helpers/cli/harness.ts";
import { makeWorkbench } from "../../helpers/transaction/workbench.ts";
import { mirror } from "../../helpers/transaction/mirroring.ts";

const UTF8 = { LANG: "C.UTF-8", NO_COLOR: "1" };
const GIB = 2 ** 30;

function makeImage(image: string, backing: string | null, parts: Partial<TreeImage> = {}): TreeImage {
  return {
    image: `/srv/${image}`,
    format: "qcow2",
    backing: backing === null ? null : `/srv/${backing}`,
    virtualSizeBytes: GIB,
    allocatedBytes: 4096,
    modified: "2012-03-03T14:03:11.000Z",
    devices: [],
    mirrorOf: [],
    snapshots: [],
    isFenced: false,
    transactions: [],
    state: "ok",
    ...parts,
  };
}

/** A base with a branch for each of two devices, one of which is mirrored. */
const IMAGES: readonly TreeImage[] = [
  makeImage("os.qcow2", null, { snapshots: [{ number: 1, name: "mon" }] }),
  makeImage("web.qcow2", "os.qcow2", { snapshots: [{ number: 2, name: null }], state: "changed" }),
  makeImage("web-2.qcow2", "web.qcow2", { devices: ["vda"], isFenced: true, transactions: ["7f3k2m9qa1"] }),
  makeImage("日本.qcow2", "os.qcow2", { devices: ["vdb"] }),
  makeImage("m.qcow2", null, { mirrorOf: ["vdb"], state: "missing", allocatedBytes: null, modified: null }),
];

async function draw(
  argv: readonly string[],
  setting: RunSetting = {},
  images: readonly TreeImage[] = IMAGES,
): Promise<string> {
  const tree: TreeDescription = {
    root: "/srv",
    currentFolder: "/srv/below",
    now: "2012-03-05T14:03:11.000Z",
    generation: 4,
    devices: [makeDevice({})],
    images,
    problems: [],
  };
  const { stdout, status } = await runCli(["tree", ...argv], {
    engine: { describeTree: async () => tree },
    env: UTF8,
    ...setting,
  });
  expect(status).toBe(0);
  return stdout;
}

describe("a tree", () => {
  test("has each image once, goes straight down in a line of images, and branches where they do", async () => {
    const rest = "qcow2, 1 GiB, 4 KiB on disk, 2 days old";
    expect(await draw([])).toBe(
      [
        `○ os.qcow2       snapshot 1 (mon), ${rest}`,
        `├─○ web.qcow2    snapshot 2, changed since its snapshot, ${rest}`,
        `│ ● web-2.qcow2  active layer of vda, frozen, in transaction 7f3k2m9qa1, ${rest}`,
        `└─● 日本.qcow2   active layer of vdb, ${rest}`,
        "",
        "✗ m.qcow2        mirror of vdb, missing, qcow2, 1 GiB",
        "",
      ].join("\n"),
    );
  });

  test("is drawn in ASCII where the locale has no more, and in 40 columns with what is said below", async () => {
    const narrow = await draw([], { env: { NO_COLOR: "1" }, terminal: 40 });
    expect(narrow.split("\n").slice(0, 6)).toEqual([
      "o os.qcow2",
      "|     snapshot 1 (mon), qcow2, 1 GiB,",
      "|     4 KiB on disk, 2 days old",
      "|-o web.qcow2",
      "|     snapshot 2,",
      "|     changed since its snapshot, qcow2,",
    ]);
    for (const line of narrow.split("\n")) expect(line.length).toBeLessThanOrEqual(40);
    const long = [{ number: 12, name: "before rollback to the state of monday" }];
    const named = await draw([], { terminal: 40 }, [{ ...makeImage("a.qcow2", null), snapshots: long }]);
    expect(named.split("\n").slice(1, 3)).toEqual([
      "    snapshot 12 (before rollback to the",
      "    state of monday), qcow2, 1 GiB,",
    ]);
  });

  test("of 200 images in a line is as wide as its names", async () => {
    const names = Array.from({ length: 200 }, (_, index) => `${index}.qcow2`);
    const images = names.map((name, index) => makeImage(name, names[index - 1] ?? null));
    const lines = (await draw([], {}, images)).trimEnd().split("\n");
    expect(lines).toHaveLength(200);
    for (const line of lines) expect(line).toMatch(/^○ \d+\.qcow2 +qcow2, /);
  });

  test("has colours on a terminal that has them", async () => {
    const coloured = await draw([], { env: { LANG: "C.UTF-8", TERM: "xterm" }, terminal: 200 });
    expect(coloured).toContain("\u001b[32m● web-2.qcow2");
    expect(coloured).toContain("\u001b[31m✗ m.qcow2");
  });

  test("is a graph of Graphviz, of Mermaid, or JSON", async () => {
    const dot = await draw(["--format", "dot"]);
    expect(dot).toMatch(/^digraph imgtx \{\n/);
    expect(dot).toContain('  "/srv/web.qcow2" -> "/srv/os.qcow2"\n');
    const mermaid = await draw(["--format", "mermaid"]);
    expect(mermaid).toMatch(/^graph BT\n {2}n0\["os\.qcow2<br>snapshot 1 \(mon\)/);
    expect(mermaid).toContain("  n1 --> n0\n");
    for (const argv of [["--format", "json"], ["--json"]]) {
      expect(JSON.parse(await draw(argv))).toMatchObject({
        schema: 1,
        generation: 4,
        devices: [{ name: "vda" }],
        images: [
          {
            image: "/srv/os.qcow2",
            backing: null,
            snapshots: [{ number: 1, name: "mon" }],
            "allocated-size": 4096,
          },
          { state: "changed" },
          { devices: ["vda"], fenced: true },
          {},
          { "mirror-of": ["vdb"], state: "missing" },
        ],
      });
    }
  });
});

test("no name is markup in a label of Mermaid", async () => {
  const bench = await makeWorkbench();
  await bench.snapshot({ vda: 'a#<img src=x onerror=y>&"b.qcow2' });
  const { stdout } = await runCli(["tree", "--format", "mermaid"], { cwd: bench.root });
  expect(stdout).toContain("a#35;#60;img src=x onerror=y#62;#38;#34;b.qcow2<br>active layer of vda");
});

test("the tree of a workspace has devices, sealed images and mirrors at their places, as they are now", async () => {
  const bench = await makeWorkbench();
  await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
  await mirror(bench, { vdb: "m.qcow2" });
  writeFileSync(bench.at("a.qcow2"), "", { flag: "a" });
  const read = async () => {
    const { stdout } = await runCli(["tree", "--json", "vda", "vdb"], { cwd: bench.root });
    const { images } = JSON.parse(stdout) as { images: { image: string; backing: string | null }[] };
    return new Map(images.map((image) => [image.image, image]));
  };
  const before = await read();
  expect(before.get(bench.at("a1.qcow2"))).toMatchObject({ backing: bench.at("a.qcow2"), devices: ["vda"] });
  expect(before.get(bench.at("a.qcow2"))).toMatchObject({
    backing: bench.at("base.raw"),
    devices: [],
    snapshots: [{ number: 1 }],
  });
  expect(before.get(bench.at("m.qcow2"))).toMatchObject({ "mirror-of": ["vdb"], state: "ok" });
  renameSync(bench.at("b.raw"), bench.at("away.raw"));
  expect((await read()).get(bench.at("b.raw"))).toMatchObject({ state: "missing", "allocated-size": null });
});

test("the result for 30 devices is 30 lines, and what is to be known of them", async () => {
  const names = Array.from({ length: 30 }, (_, index) => `vd${index}`);
  const actions = names.map((device) =>
    makeAction({
      device,
      after: `/srv/${device}.qcow2`,
      notes: [`'${device}' was on /srv/${device}`, ...(device === "vd7" ? ["look out"] : [])],
    }),
  );
  const outcome = makeOutcome({ actions, devices: names.map((name) => makeDevice({ name })) });
  const print = async (dryRun: boolean): Promise<string[]> => {
    const engine = { runActions: async () => ({ ...outcome, dryRun }) };
    return (await runCli(["rollback"], { engine, env: UTF8 })).stdout.trimEnd().split("\n");
  };
  const lines = await print(false);
  expect(lines.slice(0, 31)).toEqual([
    ...names.map((name) => `${name.padEnd(6)}snapshot taken  /srv/${name}.qcow2`),
    "",
  ]);
  expect(lines.slice(31)).toEqual([
    "note: vd0: 'vd0' was on /srv/vd0 (and so of 29 more; --json has all)",
    "note: vd7: look out",
    "",
    "Generation 4: `imgtx undo` takes it back.",
  ]);
  expect((await print(true)).filter((line) => line.includes("was on"))).toHaveLength(30);
});
