// Whatever trouble a transaction is in, the hints that its messages give are commands that end it when they are
// pasted; and until then others go on.

import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { sampleQcow2 } from "../helpers/sample-image.ts";
import { atNthAfterMark } from "../helpers/transaction/mirroring.ts";
import { type Call, Killed, killAt } from "../helpers/storage/watched-storage.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";
import { type Result, runCli } from "../helpers/cli/harness.ts";

/** A workspace with vda and vdb, which has a folder of its own, and vdc, which has no trouble. */
class Desk {
  readonly cwd = makeFolder();

  async imgtx(line: string, storage = makeNodeStorage()): Promise<Result> {
    return await runCli(line.split(" "), { cwd: this.cwd, storage });
  }

  async well(line: string): Promise<string> {
    const { status, stdout, stderr } = await this.imgtx(line);
    expect({ line, status, stderr: status === 0 ? "" : stderr }).toEqual({ line, status: 0, stderr: "" });
    return stdout;
  }

  async dies(line: string, at: (call: Call) => boolean): Promise<void> {
    const dying = killAt(makeNodeStorage(), at);
    const status = await this.imgtx(line, dying).then(
      (result) => (result.stderr.includes("killed") ? "killed" : result.stderr),
      (error: unknown) => (error instanceof Killed ? "killed" : String(error)),
    );
    expect(status).toBe("killed");
  }

  at(name: string): string {
    return `${this.cwd}/${name}`;
  }
}

const image = (seed: number) => sampleQcow2({ virtualSizeBytes: 192 * 1024, dataClusters: [0, 3], seed });

async function makeDesk(): Promise<Desk> {
  const desk = new Desk();
  mkdirSync(desk.at("disk"));
  for (const [device, file] of [
    ["vda", "a.qcow2"],
    ["vdb", "disk/b.qcow2"],
    ["vdc", "c.qcow2"],
  ] as const) {
    writeFileSync(desk.at(file), image(file.length));
    await desk.well(`device add ${device} ${file}`);
  }
  return desk;
}

const onPath =
  (name: string, end: string) =>
  (call: Call): boolean =>
    call.name === name && call.path.endsWith(end);

interface Trouble {
  readonly name: string;
  readonly make: (desk: Desk) => Promise<void>;
  /** What an operator tries, and is refused. */
  readonly tries: string;
  /** What must work when all is done. */
  readonly finally: string;
  /** What the way out tells of what it leaves. */
  readonly says?: RegExp;
}

const TROUBLES: readonly Trouble[] = [
  {
    name: "a damaged journal",
    make: async (desk) => {
      await desk.well("txn begin");
      await desk.well("snapshot vda a1.qcow2");
      const [name = ""] = readdirSync(desk.at(".imgtx/journal"));
      const path = desk.at(`.imgtx/journal/${name}`);
      const bytes = readFileSync(path);
      bytes[bytes.indexOf('"newFiles"') + 3]! ^= 1;
      writeFileSync(path, bytes);
    },
    tries: "snapshot vda a2.qcow2",
    finally: "snapshot vda a2.qcow2",
  },
  {
    name: "a snapshot to undo on a disk that does not come back",
    make: async (desk) => {
      await desk.dies("snapshot-group vda=a1.qcow2 vdb=disk/b1.qcow2", onPath("file.flush", "-0-1"));
      rmSync(desk.at("disk"), { recursive: true });
    },
    tries: "snapshot vda a2.qcow2",
    finally: "snapshot vda a2.qcow2",
  },
  {
    name: "a freeze to undo on a disk that does not come back",
    make: async (desk) => {
      await desk.dies("freeze vda vdb", (call) => call.purpose === "next table");
      rmSync(desk.at("disk"), { recursive: true });
    },
    tries: "snapshot vda a2.qcow2",
    finally: "snapshot vda a2.qcow2",
  },
  {
    name: "a committed unfreeze of an image whose fence somebody has changed",
    make: async (desk) => {
      await desk.well("freeze vda");
      await desk.dies("unfreeze vda", onPath("file.write", "/a.qcow2"));
      const bytes = readFileSync(desk.at("a.qcow2"));
      bytes.write("another fence, by other hands", bytes.indexOf("frozen by imgtx"));
      writeFileSync(desk.at("a.qcow2"), bytes);
    },
    tries: "snapshot vda a1.qcow2",
    finally: "device remove vda",
  },
  {
    name: "a committed unfreeze on a disk that does not come back",
    make: async (desk) => {
      await desk.well("freeze vda vdb");
      await desk.dies("unfreeze vda vdb", onPath("file.write", "/a.qcow2"));
      rmSync(desk.at("disk"), { recursive: true });
    },
    tries: "snapshot vda a1.qcow2",
    finally: "unfreeze --force vda vdb",
  },
  {
    name: "a committed internal snapshot that was cut off, and whose redo log is lost",
    make: async (desk) => {
      await desk.dies("internal-snapshot create vda one", atNthAfterMark("file.write", "/a.qcow2", 2));
      for (const name of readdirSync(desk.cwd)) if (name.endsWith(".redo")) rmSync(desk.at(name));
    },
    tries: "snapshot vda a1.qcow2",
    finally: "unfreeze --force vda",
    says: /a\.qcow2: it may be changed by half, and have a fence: see what `imgtx img check \S+` says/,
  },
  {
    name: "a committed move to a mirror that does not come back",
    make: async (desk) => {
      await desk.well("mirror vda disk/m.raw --format raw");
      const bytes = image(5);
      writeFileSync(desk.at("a.qcow2"), bytes);
      await desk.dies("reopen vda disk/m.raw", onPath("file.write", "/m.raw"));
      renameSync(desk.at("disk/m.raw"), desk.at("lost"));
    },
    tries: "snapshot vda a1.qcow2",
    finally: "snapshot vda a1.qcow2",
  },
];

/** The commands that a message names: what an operator pastes, the last one first. */
function commandsIn({ stderr }: Result): string[] {
  const errors = stderr.split("\n").filter((line) => line.includes("hint:"));
  return [...errors.join("\n").matchAll(/`imgtx ([^`]+)`/g)].map(([, command = ""]) => command).toReversed();
}

async function statesOf(desk: Desk): Promise<Record<string, string>> {
  const { devices } = JSON.parse((await desk.imgtx("device list --json")).stdout) as {
    devices: { name: string; state: string }[];
  };
  return Object.fromEntries(devices.map(({ name, state }) => [name, state]));
}

describe("a transaction that recovery can't end", () => {
  test.each(TROUBLES)(
    "$name: others go on, and the hint ends it",
    async ({ make, tries, says = /./, finally: last }) => {
      const desk = await makeDesk();
      await make(desk);
      for (const line of [
        "device list",
        "history",
        "tree",
        "txn status",
        "txn list",
        "snapshot vdc c1.qcow2",
      ]) {
        const { status, stderr } = await desk.imgtx(line);
        expect({ line, status, lines: stderr.trimEnd().split("\n").length }).toEqual({
          line,
          status: 0,
          lines: 1,
        });
      }
      expect(await statesOf(desk)).toMatchObject({ vda: "waiting", vdc: "ok" });
      expect((await desk.imgtx("device list --check")).status).toBe(1);
      const refused = await desk.imgtx(tries);
      expect(refused.status).toBe(11);
      const recovering = await desk.imgtx("recover");
      expect(recovering.status).not.toBe(0);
      expect(recovering.stdout).not.toContain("Nothing to recover");
      const [wayOut = "nothing"] = commandsIn(refused);
      expect(wayOut).toMatch(/--force|--give-up/);
      const { transactions } = JSON.parse(await desk.well("txn status --json")) as {
        transactions: { id: string; problem: string }[];
      };
      expect(transactions.map(({ problem }) => problem).join("")).toContain(wayOut);
      await desk.well(`${wayOut} --dry-run`);
      expect((await desk.imgtx("recover")).status).not.toBe(0);
      expect(await desk.well(wayOut)).toMatch(says);
      expect(await desk.well("recover")).toContain("Nothing to recover.");
      expect(await desk.well("txn list -q")).toBe("");
      await desk.well(last);
    },
  );
});

test("who names the workspace gets it named in what he may paste", async () => {
  const desk = await makeDesk();
  const cwd = makeFolder();
  const away = async (line: string): Promise<Result> => await runCli(line.split(" "), { cwd });
  const named = `--workspace ${desk.cwd}`;
  const frozen = await away(`${named} freeze vda`);
  expect(frozen.stdout).toContain(`\`imgtx ${named} unfreeze vda\` takes it back`);
  const refusals = [await away(`${named} resize vda 1M`), await away(`img resize ${desk.at("a.qcow2")} 1M`)];
  expect(refusals.map(({ stderr }) => [...stderr.matchAll(/`imgtx ([^`]+)`/g)].at(-1)?.[1])).toEqual([
    `${named} unfreeze vda`,
    `${named} unfreeze vda`,
  ]);
  expect((await desk.imgtx("resize vda 1M")).stderr).toContain("hint: `imgtx unfreeze vda`");
  const asJson = await away(`${named} resize vda 1M --json`);
  expect(JSON.parse(asJson.stderr)).toMatchObject({
    error: { hint: expect.stringContaining(`imgtx ${named} unfreeze vda`) as string },
  });
  writeFileSync(desk.at("a.qcow2"), image(7));
  for (const command of ["status", "device list", "tree"]) {
    const json = JSON.parse((await away(`${named} ${command} --json`)).stdout) as {
      devices: { name: string; problems: string[] }[];
    };
    const told = json.devices.find(({ name }) => name === "vda")?.problems.join();
    expect(told).toContain(`\`imgtx ${named} unfreeze vda\``);
  }
});

test("a refusal that aborts the transaction says so in one sentence", async () => {
  const desk = await makeDesk();
  await desk.well("txn begin --name t --on-error abort");
  const { stderr } = await desk.imgtx("resize vda 512 --txn t");
  expect(stderr).toMatch(/a shrink operation; transaction \w+ is aborted with it/);
});

describe("a frozen device whose image is lost", () => {
  test.each([
    ["is removed", "device remove vda"],
    ["goes to another image", "reopen vda other.qcow2"],
    ["is unfrozen", "unfreeze vda"],
  ])("%s, by the hints", async (_, line) => {
    const desk = await makeDesk();
    writeFileSync(desk.at("other.qcow2"), image(7));
    await desk.well("freeze vda");
    rmSync(desk.at("a.qcow2"));
    for (let steps = 0; ; steps += 1) {
      const result = await desk.imgtx(line);
      if (result.status === 0) break;
      expect(steps, result.stderr).toBeLessThan(3);
      let [next] = commandsIn(result);
      while (next !== undefined) {
        const followed = await desk.imgtx(next);
        if (followed.status === 0) break;
        const [other] = commandsIn(followed);
        expect(other, followed.stderr).not.toBe(next);
        next = other;
      }
      if (next === undefined || next.includes(line.split(" ")[0] ?? "")) break;
    }
    const { devices } = JSON.parse(await desk.well("device list --json")) as {
      devices: { name: string; image: string; frozen: boolean }[];
    };
    const vda = devices.find(({ name }) => name === "vda");
    if (line.startsWith("device")) expect(vda).toBeUndefined();
    else if (line.startsWith("reopen")) expect(vda?.image).toBe(desk.at("other.qcow2"));
    else expect(vda?.frozen).toBe(false);
  });
});

describe("an image that is another device's business", () => {
  test.each([
    ["is its active layer", [], "device add vdx a.qcow2", "x.qcow2"],
    ["is its active layer, and another device is to go there", [], "reopen vdb a.qcow2", "x.qcow2"],
    ["is what a snapshot keeps of it", ["snapshot vda a1.qcow2"], "device add vdx a.qcow2", "x.qcow2"],
    [
      "is what its active layer stands on",
      ["rebase vda --onto c.qcow2"],
      "device add vdx c.qcow2",
      "x.qcow2",
    ],
  ])("%s: the hints make an overlay that can be had instead", async (_, before, tries, overlay) => {
    const desk = await makeDesk();
    // Of no device: what a rebase puts it on.
    await desk.well("device remove vdc");
    for (const line of before) await desk.well(line);
    const refused = await desk.imgtx(tries);
    expect(refused.status).toBe(14);
    const hinted = commandsIn(refused).toReversed();
    const last = hinted.findIndex((line) => line.startsWith("img create"));
    expect(last).toBeGreaterThanOrEqual(0);
    for (const line of hinted.slice(0, last + 1)) {
      await desk.well(line.replace(/\bFILE\b/, "a1.qcow2").replace(/\bOVERLAY\b/, overlay));
    }
    await desk.well(tries.replace(/\S+$/, overlay));
    await desk.well("device list --check");
  });
});
