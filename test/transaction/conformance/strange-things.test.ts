// What is in .imgtx and is not imgtx's, and what of it is lost: no hindrance, or a way out that works.

import { execFileSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { collectGarbage, listGenerations, restoreWorkspace } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { Killed, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, NO_WAIT, type Workbench } from "../../helpers/transaction/workbench.ts";

const HERE = { ...NO_WAIT, dryRun: false };
const ID = "abcdefghij";

const makeFifo = (path: string): void => {
  execFileSync("mkfifo", [path]);
};

/** Everything that a user may want to do then. */
async function goOn(bench: Workbench): Promise<void> {
  await bench.snapshot({ vda: "a1.qcow2" });
  await bench.snapshot({ vda: "a2.qcow2" });
  await bench.begin();
  expect(await bench.open()).toHaveLength(1);
  await bench.abort();
  expect(await bench.images()).toMatchObject({ vda: "a2.qcow2" });
}

describe("in the folder of journals", () => {
  test.each<[string, (path: string) => void]>([
    [
      "a folder",
      (path) => {
        mkdirSync(path);
      },
    ],
    ["a FIFO", makeFifo],
    [
      "a link to a file",
      (path) => {
        symlinkSync("/etc/passwd", path);
      },
    ],
    [
      "a link to nothing",
      (path) => {
        symlinkSync("nowhere", path);
      },
    ],
  ])("%s is left alone, said, and keeps nobody from anything", async (_, make) => {
    for (const name of [`${ID}.journal`, `${ID}.new`, "x.journal", "x.new", ".journal", "a..b.journal"]) {
      const bench = await makeWorkbench();
      const path = bench.at(`.imgtx/journal/${name}`);
      make(path);
      const { recovered } = await bench.session();
      expect(recovered).toMatchObject([{ did: "noted", transaction: null }]);
      expect(recovered[0]?.text).toContain(path);
      await goOn(bench);
      expect(lstatSync(path).isFile()).toBe(false);
    }
  });

  test("a file of another program's is none either, unless it has the name of a journal", async () => {
    const bench = await makeWorkbench();
    for (const name of ["README", "x.journal~", "x.journal", ".nfs0000"]) {
      writeFileSync(bench.at(`.imgtx/journal/${name}`), "something\n");
    }
    expect((await bench.session()).recovered).toMatchObject([{ did: "noted" }]);
    await goOn(bench);
  });
});

describe("under a name that imgtx is about to give", () => {
  const NAMES = ["table.json.new", "history/000003.json.new", "history/000003.json", "devices.new"];

  test.each(NAMES)("%s as an empty folder, or a FIFO, makes way", async (name) => {
    for (const make of [
      (path: string) => {
        mkdirSync(path);
      },
      makeFifo,
    ]) {
      const bench = await makeWorkbench();
      make(bench.at(`.imgtx/${name}`));
      await goOn(bench);
    }
  });

  test.each([...NAMES, "view/4.devices"])(
    "%s with something in it is refused before anything changes",
    async (name) => {
      const bench = await makeWorkbench();
      const path = bench.at(`.imgtx/${name}`);
      if (name === "view/4.devices") writeFileSync(path, "");
      else mkdirSync(`${path}/kept`, { recursive: true });
      const failure = await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" }));
      expect(failure).toMatchObject({ code: "E_EXISTS", exitCode: 14, image: path });
      expect(existsSync(bench.at("a1.qcow2"))).toBe(false);
      expect(await bench.generation()).toBe(3);
      execFileSync("sh", ["-c", /`(mv .*)`/.exec(failure.hint ?? "")?.[1] ?? "false"]);
      await goOn(bench);
    },
  );
});

describe("where it is lost", () => {
  test.each(["journal", "history"])("the folder .imgtx/%s is made again, and said", async (part) => {
    const bench = await makeWorkbench();
    rmSync(bench.at(`.imgtx/${part}`), { recursive: true });
    const { recovered } = await bench.session();
    expect(recovered).toMatchObject([{ did: "mended" }]);
    expect(recovered[0]?.text).toContain(`made .imgtx/${part} again, which was lost`);
    expect((await bench.session()).recovered).toEqual([]);
    await goOn(bench);
  });

  test("the view is shown again, and the lock is made by who needs it", async () => {
    const bench = await makeWorkbench();
    rmSync(bench.at(".imgtx/view"), { recursive: true });
    rmSync(bench.at(".imgtx/lock"));
    await goOn(bench);
    expect(statSync(bench.at(".imgtx/lock")).mode & 0o777).toBe(0o600);
    expect(existsSync(bench.at("devices/vda"))).toBe(true);
  });

  test.each<[string, (path: string) => void]>([
    ["a FIFO", makeFifo],
    [
      "an empty folder",
      (path) => {
        mkdirSync(path);
      },
    ],
  ])("%s in the lock's place gives way to it", async (_, make) => {
    const bench = await makeWorkbench();
    rmSync(bench.at(".imgtx/lock"));
    make(bench.at(".imgtx/lock"));
    await goOn(bench);
  });

  test.each<[string, (path: string) => void]>([
    ["a FIFO", makeFifo],
    [
      "an empty file",
      (path) => {
        writeFileSync(path, "");
      },
    ],
    [
      "a link to itself",
      (path) => {
        symlinkSync("journal", path);
      },
    ],
    [
      "a link to a folder",
      (path) => {
        symlinkSync("/tmp", path);
      },
    ],
  ])("%s in a folder's place is moved away by the command of the hint", async (_, make) => {
    for (const part of ["journal", "history", "view", "snapshots", "hooks"]) {
      const bench = await makeWorkbench();
      const path = bench.at(`.imgtx/${part}`);
      rmSync(path, { recursive: true, force: true });
      make(path);
      const failure = await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" }));
      expect(failure).toMatchObject({ exitCode: 14, image: path });
      expect(existsSync(bench.at("a1.qcow2"))).toBe(false);
      execFileSync("sh", ["-c", /`(mv .*)`/.exec(failure.hint ?? "")?.[1] ?? "false"]);
      await goOn(bench);
    }
  });

  test("a damaged generation hides no other from the history, and from a rollback", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.snapshot({ vdc: "c1.qcow2" });
    truncateSync(bench.at(".imgtx/history/000004.json"), 100);
    const { generations } = await listGenerations(await bench.session(), {});
    expect(generations.map(({ generation, problem }) => [generation, problem])).toEqual([
      [5, null],
      [4, "generation 4 in the history is damaged"],
      [3, null],
      [2, null],
      [1, null],
      [0, null],
    ]);
    const failure = await failureOf(async () => await bench.undo());
    expect(failure).toMatchObject({ code: "E_CORRUPT", image: bench.at(".imgtx/history/000004.json") });
    await bench.rollback("1");
    expect(await bench.images()).toMatchObject({ vda: "a-after-1.qcow2", vdc: "c1.qcow2" });
    execFileSync("sh", ["-c", /`(mv .*)`/.exec(failure.hint ?? "")?.[1] ?? "false"]);
    const { generations: left } = await listGenerations(await bench.session(), {});
    expect(left.map(({ generation }) => generation)).not.toContain(4);
  });

  test("an earlier generation that is a FIFO is none, and the history goes on", async () => {
    const bench = await makeWorkbench();
    rmSync(bench.at(".imgtx/history/000001.json"));
    makeFifo(bench.at(".imgtx/history/000001.json"));
    await goOn(bench);
  });
});

test("a snapshot's record that is a FIFO is a lost one, said with the way out, and other snapshots are taken", async () => {
  const bench = await makeWorkbench();
  await bench.snapshot({ vda: "a1.qcow2" });
  const [name = ""] = readdirSync(bench.at(".imgtx/snapshots"));
  const path = bench.at(`.imgtx/snapshots/${name}`);
  rmSync(path);
  makeFifo(path);
  const failure = await failureOf(async () => await bench.rollback("1"));
  expect(failure).toMatchObject({ code: "E_NOT_FOUND", image: path });
  expect(failure.hint).toContain("`imgtx snapshot-delete 1 --keep-images`");
  await bench.snapshot({ vdc: "c1.qcow2" });
});

test("a device whose image is a link in a circle has trouble of its own, and others go on", async () => {
  const bench = await makeWorkbench();
  rmSync(bench.at("b.raw"));
  symlinkSync("b.raw", bench.at("b.raw"));
  const session = await bench.session();
  expect(session.recovered).toMatchObject([{ did: "noted", transaction: null }]);
  expect(session.recovered[0]?.text).toContain(`beside '${bench.at("b.raw")}' can't be told`);
  await goOn(bench);
  expect(await collectGarbage(await bench.session(), { ...NO_WAIT, removes: true })).toMatchObject({
    found: [],
  });
});

describe("a lost device table", () => {
  const WAYS: readonly [string, (path: string) => void][] = [
    [
      "removed",
      (path) => {
        rmSync(path);
      },
    ],
    [
      "emptied",
      (path) => {
        truncateSync(path);
      },
    ],
    [
      "cut short",
      (path) => {
        truncateSync(path, 100);
      },
    ],
    [
      "replaced by a FIFO",
      (path) => {
        rmSync(path);
        makeFifo(path);
      },
    ],
    [
      "replaced by a folder",
      (path) => {
        rmSync(path);
        mkdirSync(path);
      },
    ],
  ];

  test.each(WAYS)("%s, is told with a way out that works", async (_, lose) => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    lose(bench.at(".imgtx/table.json"));
    for (const call of [
      async () => await bench.session(),
      async () => await bench.snapshot({ vda: "x.qcow2" }),
    ]) {
      const failure = await failureOf(call);
      expect(failure).toMatchObject({ code: "E_CORRUPT", image: bench.at(".imgtx/table.json") });
      expect(failure.hint).toContain(`imgtx init --restore ${bench.root}`);
    }
    const done = await restoreWorkspace(bench.storage, bench.root, HERE);
    expect(done).toMatchObject({ changed: true, generation: 3 });
    expect(done.devices.find(({ device }) => device === "vda")).toMatchObject({
      image: bench.at("a.qcow2"),
      shown: bench.at("a1.qcow2"),
    });
    await bench.session();
    expect(await bench.images()).toMatchObject({ vda: "a.qcow2" });
    await bench.reopen("vda", "a1.qcow2");
    expect(await bench.images()).toMatchObject({ vda: "a1.qcow2" });
    expect((await bench.session()).recovered).toEqual([]);
  });

  test("that is sound is left as it is", async () => {
    const bench = await makeWorkbench();
    const before = readFileSync(bench.at(".imgtx/table.json"));
    expect(await restoreWorkspace(bench.storage, bench.root, HERE)).toMatchObject({ changed: false });
    expect(readFileSync(bench.at(".imgtx/table.json"))).toEqual(before);
  });

  test("whose restoration is cut off anywhere is lost, and the same command goes on", async () => {
    for (let stop = 1; ; stop += 1) {
      const bench = await makeWorkbench();
      truncateSync(bench.at(".imgtx/table.json"));
      let seen = 0;
      const dying = killAt(bench.storage, () => {
        seen += 1;
        return seen === stop;
      });
      const isDead = await restoreWorkspace(dying, bench.root, HERE).then(
        () => false,
        (error: unknown) => {
          if (error instanceof Killed) return true;
          throw error;
        },
      );
      await restoreWorkspace(bench.storage, bench.root, HERE);
      expect(await bench.generation()).toBe(2);
      if (!isDead) return;
    }
  });
});
