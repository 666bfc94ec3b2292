// A command over two disks dies, and one of them is not mounted when the next commands come. It is mounted later.

import { mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, rmSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { freeze, isFenced, unfreeze } from "../../helpers/transaction/freezing.ts";
import { Killed, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

/** vda on the workspace's disk, vdb on another one, and vdc beside vda: generation 3. */
async function makeTwoDisks(): Promise<Workbench> {
  const bench = new Workbench(makeFolder());
  mkdirSync(bench.at("disk"));
  bench.makeQcow2("a.qcow2", 1);
  bench.makeQcow2("disk/b.qcow2", 2);
  bench.makeQcow2("c.qcow2", 3);
  await bench.add("vda", "a.qcow2");
  await bench.add("vdb", "disk/b.qcow2");
  await bench.add("vdc", "c.qcow2");
  return bench;
}

interface Away {
  readonly mount: () => void;
}

const WAYS: readonly (readonly [string, (bench: Workbench) => Away])[] = [
  [
    "an empty mount point",
    (bench) => {
      renameSync(bench.at("disk"), bench.at("unmounted"));
      mkdirSync(bench.at("disk"));
      return {
        mount: () => {
          rmdirSync(bench.at("disk"));
          renameSync(bench.at("unmounted"), bench.at("disk"));
        },
      };
    },
  ],
  [
    "no folder at all",
    (bench) => {
      renameSync(bench.at("disk"), bench.at("unmounted"));
      return { mount: () => renameSync(bench.at("unmounted"), bench.at("disk")) };
    },
  ],
  [
    "another disk in its place, with files of the same names",
    (bench) => {
      renameSync(bench.at("disk"), bench.at("unmounted"));
      mkdirSync(bench.at("disk"));
      bench.makeQcow2("disk/b.qcow2", 4);
      bench.makeQcow2("disk/b1.qcow2", 5);
      const [before, overlay] = ["b.qcow2", "b1.qcow2"].map((name) => readFileSync(bench.at(`disk/${name}`)));
      return {
        mount: () => {
          expect(readFileSync(bench.at("disk/b.qcow2"))).toEqual(before);
          expect(readFileSync(bench.at("disk/b1.qcow2"))).toEqual(overlay);
          rmSync(bench.at("disk"), { recursive: true });
          renameSync(bench.at("unmounted"), bench.at("disk"));
        },
      };
    },
  ],
];

const COMMANDS: readonly {
  readonly name: string;
  readonly prepare: (bench: Workbench) => Promise<unknown>;
  readonly run: (bench: Workbench) => Promise<unknown>;
}[] = [
  {
    name: "freeze",
    prepare: async () => await Promise.resolve(),
    run: async (bench) => await bench.run(freeze(["vda", "vdb"])),
  },
  {
    name: "unfreeze",
    prepare: async (bench) => await bench.run(freeze(["vda", "vdb"])),
    run: async (bench) => await bench.run(unfreeze(["vda", "vdb"])),
  },
  {
    name: "snapshot-group",
    prepare: async () => await Promise.resolve(),
    run: async (bench) => await bench.snapshot({ vda: "a1.qcow2", vdb: "disk/b1.qcow2" }),
  },
];

/** What must be wholly before or after: files, active layers, fences. */
async function observe(bench: Workbench) {
  const devices = await bench.devices();
  const visible = (folder: string) => readdirSync(bench.at(folder)).filter((name) => name !== ".imgtx");
  return {
    files: [...visible("."), ...visible("disk")],
    devices: devices
      .filter(({ name }) => name !== "vdc")
      .map(({ name, image, frozen, fences }) => ({ name, image, frozen, fences })),
    fenced: ["a.qcow2", "disk/b.qcow2"].map((name) => isFenced(bench.at(name))),
  };
}

/** Runs the command until it dies before its nth call that changes something. False where there is none. */
async function dieBefore(bench: Workbench, command: (dying: Workbench) => Promise<unknown>, nth: number) {
  let count = 0;
  const storage = watchStorage(makeNodeStorage(), ({ name }, kill) => {
    if (CHANGING.has(name)) count += 1;
    if (count === nth) kill();
  });
  try {
    await command(bench.through(storage));
    return false;
  } catch (error) {
    const isDeath = error instanceof Killed || (error instanceof Error && error.cause instanceof Killed);
    if (!isDeath) throw error;
    return true;
  }
}

const CHANGING = new Set([
  "createFile",
  "rename",
  "renameWithoutReplacing",
  "removeFile",
  "flushFolder",
  "file.write",
  "file.flush",
  "file.setModified",
]);

/** Each call is cut off in one of the ways. */
const IN_TURN = WAYS.map(([name, unmount], index) => [name, unmount, index + 1] as const);

describe.each(IN_TURN)("a disk that is away at recovery, with %s", (_, unmount, first) => {
  test.each(COMMANDS)("leaves nothing of a $name by halves when it is back", async ({ prepare, run }) => {
    const example = await makeTwoDisks();
    await prepare(example);
    const before = shape(await observe(example), example);
    await run(example);
    const after = shape(await observe(example), example);
    let waits = 0;
    for (let nth = first; ; nth += WAYS.length) {
      const bench = await makeTwoDisks();
      await prepare(bench);
      if (!(await dieBefore(bench, run, nth))) break;
      const { mount } = unmount(bench);
      const { recovered } = await bench.session();
      expect(recovered.every(({ did }) => did !== "reported")).toBe(true);
      if (recovered.some(({ did }) => did === "waiting")) {
        waits += 1;
        expect(recovered[0]?.obstacle).toMatchObject({ code: "E_NOT_FOUND", devices: ["vda", "vdb"] });
        const refused = await failureOf(async () => await bench.snapshot({ vda: "a2.qcow2" }));
        expect(refused).toMatchObject({ code: "E_TRANSACTION", device: "vda" });
      }
      // Another device goes on, whatever waits.
      await bench.remove("vdc");
      mount();
      await bench.session();
      expect([before, after], `killed before call ${nth}`).toContainEqual(shape(await observe(bench), bench));
      expect(await bench.open()).toEqual([]);
    }
    expect(waits).toBeGreaterThan(0);
  });
});

function shape(observed: Awaited<ReturnType<typeof observe>>, bench: Workbench): unknown {
  return JSON.parse(JSON.stringify(observed).replaceAll(bench.root, "/"));
}
