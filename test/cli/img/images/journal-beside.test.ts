// Changes of an image that is in no workspace: the journal beside it, found and ended by whoever opens the image, and the
// devices whose image is changed as theirs or not at all.

import { execSync } from "node:child_process";
import {
  chownSync,
  cpSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";
import { ImgtxError } from "../../../../src/errors/index.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { canSayWorkspaces } from "../../../helpers/attributes.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { sampleQcow2, sampleRaw } from "../../../helpers/sample-image.ts";
import { type Call, failAt, Killed, killAt } from "../../../helpers/storage/watched-storage.ts";
import { makeFolder, type Printed, runImg, runQemu } from "../../../helpers/cli/against-qemu.ts";
import { runCli } from "../../../helpers/cli/harness.ts";

const KIB = 1024;
const qemu = oracle("qemu-img");
const root = oracle("root");

let folder: string;
const at = (name: string): string => `${folder}/${name}`;
const img = async (line: string, cwd = folder): Promise<Printed> =>
  await runImg(cwd, line.split(" "), { program: "imgtx" });
const imgtx = async (line: string, cwd: string) => await runCli(line.split(" "), { cwd });

beforeEach(() => {
  folder = makeFolder();
  writeFileSync(at("a.qcow2"), sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [0, 3], seed: 1 }));
  writeFileSync(
    at("old.qcow2"),
    sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [0], seed: 2, version: 2 }),
  );
  writeFileSync(at("b.raw"), sampleRaw(64 * KIB, 3));
});

/** Kills a command at a call, before that has any effect. */
async function dies(line: string, at_: (call: Call) => boolean): Promise<void> {
  const storage = killAt(makeNodeStorage(), at_);
  const status = await runImg(folder, line.split(" "), { program: "imgtx", storage }).then(
    ({ stderr }) => (stderr.includes("killed") ? "killed" : stderr),
    (error: unknown) => (error instanceof Killed ? "killed" : String(error)),
  );
  expect(status).toBe("killed");
}

/** The first write to the image after the commit mark, with all others still to come. */
function amid(name: string): (call: Call) => boolean {
  let isMarked = false;
  let writes = 0;
  return (call) => {
    isMarked ||= call.purpose === "commit mark";
    const isWrite = call.name === "file.write" || call.name === "file.truncate";
    if (isMarked && isWrite && call.path.endsWith(`/${name}`)) writes += 1;
    return writes === 2;
  };
}

const beforeMark = ({ purpose }: Call): boolean => purpose === "prepared";

test("a file that was changed by half under another name is left alone, and its other names are asked for", async () => {
  mkdirSync(at("other"));
  linkSync(at("a.qcow2"), at("other/same.qcow2"));
  await dies("snapshot -c one a.qcow2", amid("a.qcow2"));
  const half = readFileSync(at("a.qcow2"));
  const { status, stderr } = await img("snapshot -c two other/same.qcow2");
  expect({ status, stderr }).toEqual({
    status: 1,
    stderr: expect.stringContaining("-xdev -samefile ") as string,
  });
  expect(await img("convert -O raw other/same.qcow2 out.raw")).toMatchObject({ status: 1 });
  expect(readdirSync(folder)).not.toContain("out.raw");
  expect(readFileSync(at("a.qcow2")).equals(half)).toBe(true);
  expect(await img("check -q a.qcow2")).toMatchObject({ status: 0 });
  expect(await img("snapshot -c two other/same.qcow2")).toMatchObject({ status: 0 });
});

test("one that came away from its journal half changed is read by nobody, and marked corrupt where its fence goes", async () => {
  await dies("snapshot -c one a.qcow2", amid("a.qcow2"));
  mkdirSync(at("away"));
  renameSync(at("a.qcow2"), at("away/a.qcow2"));
  const away = at("away");
  expect(await img("compare a.qcow2 a.qcow2", away)).toMatchObject({
    status: 2,
    stderr: expect.stringMatching(/transaction [a-z0-9]{10} was cut off amid changing it/) as string,
  });
  expect((await imgtx("doctor .", away)).stdout).toContain("half-changed");
  expect(await imgtx("device add vda a.qcow2", away)).toMatchObject({ status: 0 });
  expect(await imgtx("mirror vda copy.qcow2", away)).toMatchObject({ status: 11 });
  expect(await imgtx("unfreeze --force vda", away)).toMatchObject({ status: 0 });
  expect(await imgtx("resize vda +1M", away)).toMatchObject({ status: 15 });
  expect(await img("check -q -r all a.qcow2", away)).toMatchObject({ status: 0 });
  expect(await imgtx("resize vda +1M", away)).toMatchObject({ status: 0 });
});

test.each([
  ["one layer", ["over"]],
  ["several layers", ["mid", "over"]],
])(
  "what %s merged into shows nobody a part of that, and all of them show what they did",
  async (_, layers) => {
    let below = "a.qcow2";
    for (const layer of layers) {
      const backing = { name: below, format: "qcow2" };
      const dataClusters = [layers.length - 1, 1];
      below = `${layer}.qcow2`;
      writeFileSync(at(below), sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters, seed: 4, backing }));
    }
    expect(await img("convert -O raw over.qcow2 shown.raw")).toMatchObject({ status: 0 });
    await dies("commit -b a.qcow2 over.qcow2", amid("a.qcow2"));
    mkdirSync(at("away"));
    for (const name of ["a", ...layers]) renameSync(at(`${name}.qcow2`), at(`away/${name}.qcow2`));
    const away = at("away");
    for (const name of ["a", ...layers.slice(0, -1)]) {
      expect(await img(`convert -O raw ${name}.qcow2 out.raw`, away)).toMatchObject({
        status: 1,
        stderr: expect.stringMatching(/transaction [a-z0-9]{10} was cut off while it merged /) as string,
      });
    }
    expect(readdirSync(away)).toHaveLength(1 + layers.length);
    expect((await imgtx("doctor .", away)).stdout).toMatch(
      /^a.qcow2 +half-changed\n.*while it merged into it/m,
    );
    expect(await img("compare -f qcow2 -F raw over.qcow2 ../shown.raw", away)).toMatchObject({ status: 0 });
    expect(await imgtx("device add vda a.qcow2", away)).toMatchObject({
      status: 0,
      stdout: expect.stringContaining("shows a part of what transaction") as string,
    });
    expect(await imgtx("mirror vda copy.qcow2", away)).toMatchObject({ status: 11 });
    expect(await imgtx("unfreeze --force vda", away)).toMatchObject({
      status: 0,
      stdout: expect.stringContaining("shows a part of what transaction") as string,
    });
    expect(await imgtx("mirror vda copy.qcow2", away)).toMatchObject({ status: 0 });
  },
);

test("a file with other names, and no place for a fence, is not changed by one of them; with a name of its own it is", async () => {
  mkdirSync(at("other"));
  for (const name of ["a.qcow2", "old.qcow2", "b.raw"]) linkSync(at(name), at(`other/${name}`));
  const lines = ["snapshot -c one old.qcow2", "resize -f raw b.raw +64k", "amend -o compat=1.1 old.qcow2"];
  for (const [index, line] of lines.entries()) {
    const { status, stderr } = await img(line);
    expect(status).toBe(1);
    expect(stderr).toMatch(/it has 2 names \(hard links\).*\n?.*-xdev -samefile /);
    const [, paste = ""] = /`(cp -p [^`]*)`/.exec(stderr) ?? [];
    execSync(paste.replaceAll("FOLDER", folder));
    expect(await img(line)).toMatchObject({ status: 0 });
    // And once more with another name.
    const [name = ""] = /old.qcow2|b.raw/.exec(line) ?? [];
    linkSync(at(name), at(`other/again-${index}`));
  }
  expect(await img("snapshot -c one a.qcow2")).toMatchObject({ status: 0 });
  expect(readdirSync(at("other")).length).toBe(6);
});

describe("what an interrupted command left beside an image", () => {
  const openers: Readonly<Record<string, (name: string) => string>> = {
    info: (name) => `info ${name}`,
    check: (name) => `check ${name}`,
    "map of an overlay": () => "map over.qcow2",
    "convert of an overlay": () => "convert -O raw over.qcow2 out.raw",
    "another change": (name) => `snapshot -c two ${name}`,
    "create over it": (name) => `create -q -f qcow2 -F qcow2 -b ${name} new.qcow2`,
  };

  test.each(Object.keys(openers))("is finished by %s", async (what) => {
    for (const name of ["a.qcow2", "old.qcow2"]) {
      const backing = { name, format: "qcow2" } as const;
      writeFileSync(
        at("over.qcow2"),
        sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [1], seed: 4, backing }),
      );
      await dies(`snapshot -c one ${name}`, amid(name));
      expect(readdirSync(folder)).toContain(`.${name}.imgtx`);
      const { status, stderr } = await img(openers[what]?.(name) ?? "");
      expect({ status, stderr }).toEqual({
        status: 0,
        stderr: expect.stringContaining("finished transaction") as string,
      });
      expect((await img(`snapshot -l ${name}`)).stdout).toContain("one");
      expect(readdirSync(folder).filter((each) => each.startsWith("."))).toEqual([]);
    }
  });

  test("is finished by the commands of a workspace, whose device it is or becomes", async () => {
    await dies("snapshot -c one old.qcow2", amid("old.qcow2"));
    mkdirSync(at("ws"));
    const added = await imgtx("device add vda ../old.qcow2 --format qcow2", at("ws"));
    expect(added).toMatchObject({
      status: 0,
      stderr: expect.stringContaining("finished transaction") as string,
    });
    expect((await imgtx("internal-snapshot list", at("ws"))).stdout).toContain("one");
    // As a command leaves it that knew of no device: the workspace is away meanwhile.
    const away = `${makeFolder()}/ws`;
    await imgtx(`device add vdb ${at("a.qcow2")}`, at("ws"));
    // So many in one folder that it is read as a whole.
    for (const name of ["c", "d"]) {
      cpSync(at("a.qcow2"), at(`${name}.qcow2`));
      await imgtx(`device add ${name} ${at(`${name}.qcow2`)}`, at("ws"));
    }
    renameSync(at("ws"), away);
    await dies("snapshot -c two a.qcow2", amid("a.qcow2"));
    const shown = await imgtx("device show vdb", away);
    expect(shown).toMatchObject({
      status: 0,
      stderr: expect.stringContaining("finished transaction") as string,
    });
  });

  test("is taken back where it was not committed, with the image as it was, times included", async () => {
    const before = [readFileSync(at("a.qcow2")), lstatSync(at("a.qcow2"), { bigint: true }).mtimeNs];
    await dies("resize a.qcow2 1M", beforeMark);
    expect((await img("info a.qcow2")).stderr).toContain("which was interrupted");
    expect([readFileSync(at("a.qcow2")), lstatSync(at("a.qcow2"), { bigint: true }).mtimeNs]).toEqual(before);
    expect(readdirSync(folder).filter((each) => each.startsWith("."))).toEqual([]);
  });

  qemu.test("keeps QEMU from the image while it is half changed", async () => {
    await dies("snapshot -c one a.qcow2", amid("a.qcow2"));
    expect(runQemu(folder, ["info", "a.qcow2"]).stderr).toContain("Unsupported qcow2 feature");
    await img("info a.qcow2");
    expect(runQemu(folder, ["check", "a.qcow2"]).status).toBe(0);
  });

  test("and can't be taken away after a change is no failure of that change", async () => {
    let isEmptied = false;
    const isAfterwards = ({ name, path }: Call): boolean => {
      const isRemoval = /unlink|remove/i.test(name);
      const wasEmptied = isEmptied;
      isEmptied ||= isRemoval && path === at(".a.qcow2.imgtx/.imgtx/table.json");
      return isRemoval && wasEmptied;
    };
    const failing = new ImgtxError("E_IO", "Input/output error");
    const storage = failAt(makeNodeStorage(), isAfterwards, failing);
    const ended = await runImg(folder, ["resize", "a.qcow2", "320k"], { program: "imgtx", storage });
    expect(ended.status).toBe(1);
    expect(ended.stderr).toContain("the change is committed and durable");
    expect(await img("info a.qcow2")).toMatchObject({
      status: 0,
      stdout: expect.stringContaining("320 KiB") as string,
    });
    expect(readdirSync(folder).filter((name) => name.endsWith(".imgtx"))).toEqual([]);
  });

  test("is found from a symbolic link to the image, and moves with its folder", async () => {
    mkdirSync(at("disks"));
    renameSync(at("old.qcow2"), at("disks/old.qcow2"));
    symlinkSync("disks/old.qcow2", at("link"));
    await dies("snapshot -c one link", amid("old.qcow2"));
    expect(readdirSync(at("disks"))).toContain(".old.qcow2.imgtx");
    renameSync(at("disks"), at("moved"));
    rmSync(at("link"));
    symlinkSync("moved/old.qcow2", at("link"));
    expect((await img("snapshot -l link")).stdout).toContain("one");
    expect(readdirSync(at("moved"))).toEqual(["old.qcow2"]);
  });

  test("gives a hint that works from any folder where it waits", async () => {
    await dies("snapshot -c one old.qcow2", amid("old.qcow2"));
    const changed = readFileSync(at("old.qcow2"));
    changed[80] = 1;
    writeFileSync(at("old.qcow2"), changed);
    const { status, stderr } = await img("check old.qcow2");
    expect(status).toBe(1);
    const [, wayOut = "nothing"] =
      /hint: `imgtx (--workspace \S+ txn commit --force \S+)`/.exec(stderr) ?? [];
    expect(await imgtx(wayOut.replace("FOLDER", folder), makeFolder())).toMatchObject({ status: 0 });
    expect(readdirSync(folder).filter((each) => each.endsWith(".imgtx"))).toHaveLength(1);
    expect(await img("info old.qcow2")).toMatchObject({ status: 0, stderr: "" });
  });

  test("is told, and not acted on, in a copy of the folder", async () => {
    await dies("snapshot -c one old.qcow2", amid("old.qcow2"));
    const copy = makeFolder();
    cpSync(folder, copy, { recursive: true });
    const before = readFileSync(`${copy}/old.qcow2`);
    const { status, stderr } = await img("check old.qcow2", copy);
    expect(status).toBe(1);
    expect(stderr).toMatch(/changed it by half.*imgtx init --adopt/s);
    expect(readFileSync(`${copy}/old.qcow2`).equals(before)).toBe(true);
    expect((await img("check -U old.qcow2", copy)).status).not.toBe(1);
    expect((await imgtx("doctor --fix .", copy)).stdout).toMatch(/^not fixed: old.qcow2 .*is a copy/s);
  });

  test("has a name that fits, whatever the image is called", async () => {
    for (const name of ["x".repeat(250), "é".repeat(120), "-odd\nname.qcow2"]) {
      writeFileSync(at(name), readFileSync(at("old.qcow2")));
      const words = ["snapshot", "-c", "one", `./${name}`];
      const storage = killAt(makeNodeStorage(), amid(name));
      await runImg(folder, words, { program: "imgtx", storage }).catch(() => undefined);
      expect(readdirSync(folder).filter((each) => each.endsWith(".imgtx"))).toHaveLength(1);
      expect((await runImg(folder, ["snapshot", "-l", `./${name}`])).stdout).toContain("one");
      expect(readdirSync(folder).filter((each) => each.startsWith("."))).toEqual([]);
    }
  });

  root.test("is not followed where another user made it who could not have changed the image", async () => {
    await dies("snapshot -c one old.qcow2", amid("old.qcow2"));
    const planted = at(".a.qcow2.imgtx");
    cpSync(at(".old.qcow2.imgtx"), planted, { recursive: true });
    for (const each of ["", "/.imgtx", "/.imgtx/journal"]) chownSync(`${planted}${each}`, 1234, 1234);
    const tree = readdirSync(planted, { recursive: true });
    expect(await img("check a.qcow2")).toMatchObject({ status: 0 });
    const changed = await img("resize a.qcow2 1M");
    expect(changed).toMatchObject({ status: 1, stderr: expect.stringContaining("another user") as string });
    expect(readdirSync(planted, { recursive: true })).toEqual(tree);
  });

  test("has no place in a folder that the user may not write to, which is told", async () => {
    const storage = makeNodeStorage();
    const refuse = async (): Promise<never> => {
      throw new ImgtxError("E_NO_PERMISSION", "Permission denied", { image: at(".a.qcow2.imgtx") });
    };
    const before = readFileSync(at("a.qcow2"));
    const { status, stderr } = await runImg(folder, ["resize", "a.qcow2", "1M"], {
      program: "imgtx",
      storage: { ...storage, makeFolder: refuse },
    });
    const message = expect.stringContaining("the journal of a change lies beside the image") as string;
    expect({ status, stderr }).toEqual({ status: 1, stderr: message });
    expect(readFileSync(at("a.qcow2")).equals(before)).toBe(true);
  });

  test("never takes away what somebody else put there", async () => {
    await dies("snapshot -c one a.qcow2", amid("a.qcow2"));
    writeFileSync(at(".a.qcow2.imgtx/.imgtx/notes.txt"), "mine\n");
    await img("info a.qcow2");
    expect(readFileSync(at(".a.qcow2.imgtx/.imgtx/notes.txt"), "utf8")).toBe("mine\n");
    expect((await img("resize a.qcow2 2M")).status).toBe(0);
    expect(readFileSync(at(".a.qcow2.imgtx/.imgtx/notes.txt"), "utf8")).toBe("mine\n");
  });
});

describe("an image that a device stands on", () => {
  beforeEach(async () => {
    const backing = { name: "a.qcow2", format: "qcow2" } as const;
    writeFileSync(
      at("over.qcow2"),
      sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [1], seed: 4, backing }),
    );
    expect((await imgtx("device add vda over.qcow2", folder)).status).toBe(0);
  });

  test("is changed as the device, in its workspace", async () => {
    expect(await img("resize over.qcow2 1M")).toMatchObject({ status: 0, stdout: "Image resized.\n" });
    const { devices } = JSON.parse((await imgtx("device list --json", folder)).stdout) as {
      devices: { "virtual-size": number }[];
    };
    expect(devices[0]?.["virtual-size"]).toBe(1024 * KIB);
    expect((await imgtx("history", folder)).stdout).toContain("resize vda");
    expect(readdirSync(folder)).not.toContain(".over.qcow2.imgtx");
  });

  test("is refused, by the device's name, where the device only reads it", async () => {
    const before = readFileSync(at("a.qcow2"));
    for (const line of ["resize a.qcow2 1M", "snapshot -c one a.qcow2"]) {
      const { status, stderr } = await img(line);
      expect({ status, stderr }).toEqual({
        status: 1,
        stderr: expect.stringContaining("device 'vda'") as string,
      });
    }
    expect(readFileSync(at("a.qcow2")).equals(before)).toBe(true);
  });

  test("is refused while a transaction of a workspace elsewhere is about to change it", async () => {
    const elsewhere = makeFolder();
    for (const line of [`device add raw ${at("b.raw")} --format raw`, "txn begin", "resize raw 128k"]) {
      expect(await imgtx(line, elsewhere)).toMatchObject({ status: 0 });
    }
    const own = canSayWorkspaces ? "it is in the open transaction" : "elsewhere";
    const refused = (why: string) => ({ status: 1, stderr: expect.stringContaining(why) as string });
    expect(await img("resize -f raw b.raw 1M")).toMatchObject(refused(own));
    // Where nothing says which workspace that is.
    await makeNodeStorage().setAttribute(at("."), "user.imgtx.workspaces", Buffer.from("[]"));
    expect(await img("resize -f raw b.raw 1M")).toMatchObject(refused("elsewhere"));
    expect(lstatSync(at("b.raw")).size).toBe(64 * KIB);
  });
});
