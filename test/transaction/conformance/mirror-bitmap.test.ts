// Mirrors that know by a bitmap what a guest wrote, and mirrors that a commit brings in sync once more.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { freeze, unfreeze } from "../../helpers/transaction/freezing.ts";
import {
  expectRefused,
  IDENTICAL,
  listBitmaps,
  judge,
  mirror,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const BITMAP = "imgtx-mirror-vda";

/** Names of the persistent bitmaps of an image that can be relied on. */
function bitmapsOf(image: string): string[] {
  return listBitmaps(image)
    .filter(({ flags }) => !flags.includes("in-use"))
    .map(({ name }) => name);
}

/** The same with each witness, whose name is another one each time, as its beginning. */
function kindsOf(image: string): string[] {
  return bitmapsOf(image).map((name) => name.replace(/:.*/, ""));
}

const BOTH = [BITMAP, "imgtx-witness-vda"];

async function makeTracked(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
  return bench;
}

/** Bytes that were read of a file meanwhile. */
async function countRead(
  file: string,
  bench: Workbench,
  work: (bench: Workbench) => Promise<unknown>,
): Promise<number> {
  let calls = 0;
  const storage = watchStorage(makeNodeStorage(), ({ name, path }) => {
    if (name === "file.read" && path === file) calls += 1;
  });
  await work(bench.through(storage));
  return calls;
}

function changeBitmap(...words: string[]): void {
  execFileSync("qemu-img", ["bitmap", ...words]);
}

interface Tampering {
  readonly what: string;
  /** Changes the image behind the bitmap's back. */
  readonly tamper: (image: string, sync: () => Promise<unknown>) => Promise<void>;
}

const write = (image: string, command = "write -P 9 0 64k"): void => writeGuest(image, "qcow2", command);

const TAMPERINGS: readonly Tampering[] = [
  {
    what: "a program cleared it",
    tamper: async (image) => {
      write(image);
      changeBitmap("--clear", image, BITMAP);
    },
  },
  {
    what: "a program cleared all bitmaps",
    tamper: async (image) => {
      write(image);
      for (const name of bitmapsOf(image)) changeBitmap("--clear", image, name);
    },
  },
  {
    what: "it was disabled for a while",
    tamper: async (image) => {
      changeBitmap("--disable", image, BITMAP);
      write(image);
      changeBitmap("--enable", image, BITMAP);
    },
  },
  {
    what: "its witness was disabled for a while",
    tamper: async (image) => {
      const witness = bitmapsOf(image).find((name) => name !== BITMAP) ?? "";
      changeBitmap("--disable", image, witness);
      write(image);
      changeBitmap("--enable", image, witness);
    },
  },
  {
    what: "another one was merged into it",
    tamper: async (image, sync) => {
      changeBitmap("--add", image, "other");
      write(image);
      await sync();
      changeBitmap("--merge", "other", image, BITMAP);
    },
  },
  {
    what: "it was made anew by a program",
    tamper: async (image) => {
      write(image);
      changeBitmap("--remove", image, BITMAP);
      changeBitmap("--add", image, BITMAP);
    },
  },
  {
    what: "the end of the disk was cut off, and grew again",
    tamper: async (image) => {
      execFileSync("qemu-img", ["resize", "-q", "--shrink", image, "64k"]);
      execFileSync("qemu-img", ["resize", "-q", image, "192k"]);
    },
  },
  {
    what: "an older state came back after the mirror had moved on",
    tamper: async (image, sync) => {
      const backup = readFileSync(image);
      write(image);
      await sync();
      writeFileSync(image, backup);
    },
  },
  {
    what: "a state with marks came back after the mirror had moved on",
    tamper: async (image, sync) => {
      write(image);
      const backup = readFileSync(image);
      write(image, "write -P 11 64k 64k");
      await sync();
      writeFileSync(image, backup);
    },
  },
];

function makeOther(image: string, ...options: string[]): void {
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ...options, image, "192k"]);
  write(image, "write -P 7 0 192k");
}

async function expectNoBitmap(bench: Workbench, image: string): Promise<void> {
  await bench.add("vdx", "other.qcow2", "qcow2");
  const { actions } = await mirror(bench, { vdx: "mx.qcow2" }, { bitmap: true });
  expect(actions[0]?.notes.join()).toMatch(/no bitmap is kept in .*other\.qcow2/);
  expect(bitmapsOf(image)).toEqual([]);
}

describe("a bitmap in a mirrored device", () => {
  qemu.test("is there after the commit, enabled, and the image is sound and no longer fenced", async () => {
    const bench = await makeTracked();
    expect(kindsOf(bench.at("a.qcow2"))).toEqual(BOTH);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(await mirror(bench, { vda: undefined })).toMatchObject({ changed: false });
  });

  qemu.test("has what a guest wrote copied, and nothing else of the mirror read", async () => {
    const bench = await makeTracked();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    const tracked = await countRead(bench.at("m.qcow2"), bench, async (watched) => {
      await mirror(watched, { vda: undefined });
    });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
    await mirror(bench, { vda: "other.qcow2" });
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 10 64k 64k");
    const compared = await countRead(bench.at("other.qcow2"), bench, async (watched) => {
      await mirror(watched, { vda: undefined });
    });
    expect(tracked).toBeLessThan(compared);
  });

  qemu.test("is emptied each time, and goes on marking", async () => {
    const bench = await makeTracked();
    for (const pattern of [1, 2, 3]) {
      writeGuest(bench.at("a.qcow2"), "qcow2", `write -P ${pattern} ${pattern * 32}k 4k`, "write -z 0 4k");
      await mirror(bench, { vda: undefined });
      expect(await judge(bench, "vda")).toBe(IDENTICAL);
      expect(kindsOf(bench.at("a.qcow2"))).toEqual(BOTH);
    }
  });

  qemu.test("that is gone is noticed: all is compared, and a note says so", async () => {
    const bench = await makeTracked();
    execFileSync("qemu-img", ["bitmap", "--remove", bench.at("a.qcow2"), BITMAP]);
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    const { actions } = await mirror(bench, { vda: undefined });
    expect(actions[0]?.notes.join()).toMatch(/has no bitmap.*make another one with --bitmap/);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test.each(TAMPERINGS)("is not believed when $what", async ({ tamper }) => {
    const bench = await makeTracked();
    const image = bench.at("a.qcow2");
    await tamper(image, async () => await mirror(bench, { vda: undefined }));
    const { actions } = await mirror(bench, { vda: undefined });
    expect(actions[0]?.notes.join()).toMatch(/; both were compared/);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    // And is made anew.
    writeGuest(image, "qcow2", "write -P 21 16k 4k");
    expect((await mirror(bench, { vda: undefined })).actions[0]?.notes).toEqual(["128 KiB copied"]);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("that could not be emptied, in a frozen image, is not believed the next time", async () => {
    const bench = await makeTracked();
    const image = bench.at("a.qcow2");
    const backup = readFileSync(image);
    writeGuest(image, "qcow2", "write -P 9 0 64k");
    await bench.run(freeze(["vda"]));
    await mirror(bench, { vda: undefined });
    await bench.run(unfreeze(["vda"]));
    writeFileSync(image, backup);
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("is not kept beside an external data file, which is written to without marks", async () => {
    const bench = await makeWorkbench();
    const [image, data] = [bench.at("other.qcow2"), bench.at("data.raw")];
    makeOther(image, "-o", `data_file=${data},data_file_raw=on`);
    await expectNoBitmap(bench, image);
    execFileSync("qemu-io", ["-f", "raw", "-c", "write -q -P 3 64k 64k", data]);
    await mirror(bench, { vdx: undefined });
    expect(await judge(bench, "vdx")).toBe(IDENTICAL);
  });

  qemu.test("is not kept beside internal snapshots, which are applied without marks", async () => {
    const bench = await makeWorkbench();
    const image = bench.at("other.qcow2");
    makeOther(image);
    execFileSync("qemu-img", ["snapshot", "-c", "one", image]);
    write(image);
    await expectNoBitmap(bench, image);
    execFileSync("qemu-img", ["snapshot", "-a", "one", image]);
    await mirror(bench, { vdx: undefined });
    expect(await judge(bench, "vdx")).toBe(IDENTICAL);
  });

  qemu.test("goes with the mirror, and leaves a sound image", async () => {
    const bench = await makeTracked();
    await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
    expect(bitmapsOf(bench.at("a.qcow2"))).toEqual([]);
  });

  test("is refused for raw, which has no place for one", async () => {
    const bench = await makeWorkbench();
    await expectRefused(bench, { vdb: "m.raw" }, { code: "E_UNSUPPORTED", device: "vdb" }, { bitmap: true });
  });

  test("leaves the image byte by byte as it was when the transaction is aborted", async () => {
    const bench = await makeWorkbench();
    const before = stateOf(bench.at("a.qcow2"));
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
    await bench.abort(id);
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
    expect(stagingFiles(bench)).toEqual([]);
  });
});

describe("a commit after writes of a guest", () => {
  qemu.test("brings the transaction's mirror in sync first", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" });
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    await bench.commit(id);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(await mirror(bench, { vda: undefined })).toMatchObject({ changed: false });
  });

  qemu.test(
    "brings a mirror in sync before it takes over, made before the transaction or in it",
    async () => {
      const bench = await makeWorkbench();
      await mirror(bench, { vda: "m.qcow2" });
      const id = await bench.begin();
      await mirror(bench, { vdb: "n.raw" });
      await bench.run({
        kind: "reopen",
        device: "vda",
        file: bench.at("m.qcow2"),
        format: undefined,
        force: false,
      });
      await bench.run({
        kind: "reopen",
        device: "vdb",
        file: bench.at("n.raw"),
        format: "raw",
        force: false,
      });
      writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
      writeGuest(bench.at("b.raw"), "raw", "write -P 9 8k 8k");
      await bench.commit(id);
      expect((await bench.devices()).map(({ image }) => image).slice(0, 2)).toEqual([
        bench.at("m.qcow2"),
        bench.at("n.raw"),
      ]);
      const pairs = [
        ["a.qcow2", "m.qcow2", "qcow2"],
        ["b.raw", "n.raw", "raw"],
      ] as const;
      for (const [one, other, format] of pairs) {
        const words = ["compare", "-f", format, "-F", format, bench.at(one), bench.at(other)];
        expect(execFileSync("qemu-img", words, { encoding: "utf8" }).trim()).toBe(IDENTICAL);
      }
      expect(stagingFiles(bench)).toEqual([]);
    },
  );

  qemu.test("refuses where a snapshot rests on the image that was written to", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" });
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    expect(await failureOf(async () => await bench.commit(id))).toMatchObject({ code: "E_CHANGED" });
  });
});
