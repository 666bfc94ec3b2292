// commit and rebase: what moves between an image and its backing image.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { sampleQcow2 } from "../../../helpers/sample-image.ts";
import { Killed, killAt } from "../../../helpers/storage/watched-storage.ts";
import { makeFolder, runBoth, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";
import { runCli } from "../../../helpers/cli/harness.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
qemu-img create -q -f qcow2 base.qcow2 2M
qemu-io -f qcow2 -c 'write -P 1 0 1M' base.qcow2 > io
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
qemu-io -f qcow2 -c 'write -P 2 64k 128k' mid.qcow2 > io
qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
qemu-io -f qcow2 -c 'write -P 3 1M 64k' top.qcow2 > io
rm io
`;

/** What a guest reads of each image, on what it stands, and whether it is sound. */
function describeImages(folder: string): string {
  return shell(
    folder,
    `for name in base mid top; do
       qemu-img convert -O raw $name.qcow2 out; sha256sum < out; rm out
       qemu-img info $name.qcow2 | grep -E '^(backing|virtual)'; qemu-img check -q $name.qcow2
       qemu-img map $name.qcow2 | grep -c "  $name.qcow2" || true
     done`,
  );
}

describe("prints, ends and leaves images as qemu-img does", () => {
  qemu.test.each([
    "commit top.qcow2",
    "commit -q -d top.qcow2",
    "commit -q -b base.qcow2 top.qcow2",
    "commit -b none top.qcow2",
    "commit base.qcow2",
    "commit",
    "commit none",
    "rebase -b base.qcow2 -F qcow2 top.qcow2",
    "rebase -f qcow2 -u -b base.qcow2 -F qcow2 top.qcow2",
    "rebase -F qcow2 -b none.qcow2 base.qcow2",
    "rebase -u -b base.qcow2 -F foo top.qcow2",
    "rebase top.qcow2",
    "rebase",
  ])("%s", async (line) => {
    const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, line.split(" "));
    expect(ours.status).toBe(theirs.status);
    if (theirs.status === 0 || !line.includes("none.qcow2")) expect(ours).toEqual(theirs);
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    expect(describeImages(ourFolder)).toBe(describeImages(qemuFolder));
  });

  qemu.test("rebase -b '' has an image stand alone", async () => {
    const {
      qemu: theirs,
      ours,
      qemuFolder,
      ourFolder,
    } = await runBoth(IMAGES, ["rebase", "-b", "", "top.qcow2"]);
    expect(ours).toEqual(theirs);
    expect(describeImages(ourFolder)).toBe(describeImages(qemuFolder));
  });
});

qemu.test(
  "rebase -u needs neither the present backing image nor the new one, and writes what qemu-img does",
  async () => {
    const moved = "mv mid.qcow2 moved.qcow2";
    for (const [more, name] of [
      ["", "none.qcow2"],
      ["", "no/folder/none.qcow2"],
      ["", "/no/folder/none.qcow2"],
      [moved, "moved.qcow2"],
      [moved, "none.qcow2"],
    ] as const) {
      const line = ["rebase", "-u", "-b", name, "-F", "qcow2", "top.qcow2"];
      const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(`${IMAGES}${more}\n`, line);
      expect(ours).toEqual(theirs);
      expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
      const [their, our] = [qemuFolder, ourFolder].map((folder) => readFileSync(`${folder}/top.qcow2`));
      expect(our?.equals(their ?? Buffer.alloc(0))).toBe(true);
      const { status, stderr } = await runImg(ourFolder, line, { program: "imgtx" });
      const isMissing = name !== "moved.qcow2";
      expect({ status, isWarned: stderr.includes("nothing of it was checked") }).toEqual({
        status: 0,
        isWarned: isMissing,
      });
    }
  },
);

qemu.test(
  "commit is refused where another image would lose what it reads, which qemu-img harms",
  async () => {
    const more = "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 sibling.qcow2";
    const {
      qemu: theirs,
      ours,
      qemuFolder,
      ourFolder,
    } = await runBoth(`${IMAGES}${more}\n`, ["commit", "mid.qcow2"]);
    const read = "qemu-img convert -O raw sibling.qcow2 out; sha256sum < out; rm out";
    expect(theirs.status).toBe(0);
    expect(ours).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("'sibling.qcow2' stands on it") as string,
    });
    expect(shell(ourFolder, read)).not.toBe(shell(qemuFolder, read));
    expect(runQemu(ourFolder, ["check", "-q", "base.qcow2"]).status).toBe(0);
    // Also where it lies in a folder below.
    shell(
      ourFolder,
      "mkdir -p a/b; mv sibling.qcow2 a/b; cd a/b; qemu-img rebase -u -b ../../base.qcow2 -F qcow2 sibling.qcow2",
    );
    expect(await runImg(ourFolder, ["commit", "mid.qcow2"])).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("a/b/sibling.qcow2' stands on it") as string,
    });
  },
);

qemu.test("the way to make a backing image fit is a command that works when it is pasted", async () => {
  const more = "qemu-img resize -q base.qcow2 3M";
  const { ours, ourFolder } = await runBoth(`${IMAGES}${more}\n`, ["info", "mid.qcow2"]);
  expect(ours.status).toBe(0);
  const refused = await runImg(ourFolder, ["commit", "mid.qcow2"], { program: "imgtx" });
  const hint = /`imgtx img ([^`]+)`/.exec(refused.stderr)?.[1] ?? "";
  expect({ status: refused.status, hint }).toEqual({ status: 1, hint: "resize mid.qcow2 3145728" });
  expect(await runImg(ourFolder, hint.split(" "))).toMatchObject({ status: 0 });
  expect(await runImg(ourFolder, ["commit", "mid.qcow2"])).toMatchObject({ status: 0 });
});

qemu.test(
  "commit empties the overlay whenever qemu-img does, of each layout, and what is in its snapshots stays",
  async () => {
    const make = (options: string, more: string): string => `
qemu-img create -q -f qcow2 base.qcow2 2M
qemu-io -f qcow2 -c 'write -P 1 0 1M' base.qcow2 > io
qemu-img create -q -f qcow2 ${options} -b base.qcow2 -F qcow2 top.qcow2
qemu-io -f qcow2 -c 'write -P 2 512k 1M' -c 'write -z 256k 64k' top.qcow2 > io
${more}
rm -f io
`;
    const snapshot = "qemu-img snapshot -c one top.qcow2; qemu-io -c 'write -P 3 0 64k' top.qcow2 > io";
    const layouts = [
      ["-o compat=0.10", ""],
      ["-o cluster_size=512", ""],
      ["-o extended_l2=on", ""],
      ["", "qemu-img bitmap --add top.qcow2 marks"],
      ["", snapshot],
    ] as const;
    const describeOne = (folder: string): string =>
      shell(
        folder,
        `for name in base top; do qemu-img convert -O raw $name.qcow2 out; sha256sum < out; qemu-img check -q $name.qcow2; done
       qemu-img map top.qcow2 | grep -c top || true; qemu-img info top.qcow2 | grep name: || true
       if qemu-img snapshot -q -a one top.qcow2 2> none; then qemu-img convert -O raw top.qcow2 out; sha256sum < out; fi`,
      );
    for (const [options, more] of layouts) {
      const {
        qemu: theirs,
        ours,
        qemuFolder,
        ourFolder,
      } = await runBoth(make(options, more), ["commit", "top.qcow2"]);
      expect(ours).toEqual(theirs);
      expect(describeOne(ourFolder)).toBe(describeOne(qemuFolder));
    }
  },
);

qemu.test(
  "commit gives back the blocks of an emptied overlay's data file, and nothing else in that, as qemu-img does",
  async () => {
    const make = `
qemu-img create -q -f qcow2 base.qcow2 4M
qemu-img create -q -f qcow2 -o data_file=top.data -b base.qcow2 -F qcow2 top.qcow2
qemu-io -f qcow2 -c 'write -P 2 512k 1M' -c 'write -P 3 3M 64k' top.qcow2 > io
printf kept | dd of=top.data bs=1 seek=2M conv=notrunc status=none
rm io
`;
    const { ours, qemuFolder, ourFolder } = await runBoth(make, ["commit", "top.qcow2"]);
    expect(ours).toMatchObject({ status: 0 });
    const look = (folder: string): string =>
      shell(
        folder,
        "sha256sum top.data; qemu-img map top.qcow2 | grep -c top || true; qemu-img map -f raw --output=json top.data",
      );
    expect(look(ourFolder)).toBe(look(qemuFolder));
    expect(readFileSync(`${ourFolder}/top.data`).indexOf("kept")).toBe(2 ** 21);
  },
);

/** A commit that is killed where it begins to write to the backing image. whole: what a guest read before. */
async function cutOffCommit(version: 2 | 3): Promise<{ readonly folder: string; readonly whole: string }> {
  const folder = makeFolder();
  const at = (name: string): string => `${folder}/${name}`;
  const backing = { name: "base.qcow2", format: "qcow2" } as const;
  const virtualSizeBytes = 1 << 20;
  writeFileSync(at("base.qcow2"), sampleQcow2({ virtualSizeBytes, dataClusters: [0], seed: 1 }));
  const dataClusters = [0, 3];
  writeFileSync(at("over.qcow2"), sampleQcow2({ virtualSizeBytes, dataClusters, seed: 2, version, backing }));
  const whole = `${makeFolder()}/whole.raw`;
  await runImg(folder, ["convert", "-O", "raw", "over.qcow2", whole]);
  let isMarked = false;
  const storage = killAt(makeNodeStorage(), ({ purpose, name, path }) => {
    isMarked ||= purpose === "commit mark";
    return isMarked && name === "file.write" && path === at("base.qcow2");
  });
  await runImg(folder, ["commit", "over.qcow2"], { program: "imgtx", storage }).catch((error: unknown) => {
    if (!(error instanceof Killed)) throw error;
  });
  expect(readdirSync(folder)).toContain(".base.qcow2.imgtx");
  return { folder, whole };
}

describe("a commit that was cut off", () => {
  test("is found from the backing image as well as from the overlay, and finished", async () => {
    for (const opened of ["base.qcow2", "over.qcow2"]) {
      const { folder, whole } = await cutOffCommit(3);
      const { status, stderr } = await runImg(folder, ["check", opened], { program: "imgtx" });
      expect({ status, stderr }).toEqual({
        status: 0,
        stderr: expect.stringContaining("finished") as string,
      });
      expect(readdirSync(folder)).toEqual(["base.qcow2", "over.qcow2"]);
      for (const name of ["base.qcow2", "over.qcow2"]) {
        expect(await runImg(folder, ["compare", whole, name])).toMatchObject({ status: 0 });
      }
      expect((await runImg(folder, ["map", "over.qcow2"])).stdout).not.toContain("over.qcow2");
    }
  });

  qemu.test(
    "brings along what a guest wrote to an overlay without a fence, and empties it no more",
    async () => {
      const { folder, whole } = await cutOffCommit(2);
      const write = "write -P 7 12k 4k";
      // The dead process is this one, which has its locks yet.
      const unlocked = "driver=qcow2,file.filename=over.qcow2,file.locking=off,backing=";
      shell(folder, `qemu-io --image-opts ${unlocked} -c '${write}'; qemu-io -f raw -c '${write}' ${whole}`);
      const { status, stderr } = await runImg(folder, ["check", "over.qcow2"], { program: "imgtx" });
      const hint = /`imgtx (--workspace \S+ txn commit --force \w+)`/.exec(stderr)?.[1] ?? "";
      expect({ status, hint }).toEqual({ status: 1, hint: expect.stringContaining("--force") as string });
      const forced = hint.replace("FOLDER", folder).split(" ");
      expect(await runCli(forced, { cwd: folder })).toMatchObject({ status: 0 });
      for (const name of ["base.qcow2", "over.qcow2"]) {
        expect(await runImg(folder, ["compare", whole, name])).toMatchObject({ status: 0 });
      }
      expect(readdirSync(folder)).toEqual(["base.qcow2", "over.qcow2"]);
    },
  );
});

test("rebase -u has no device stand on what is not there", async () => {
  const folder = makeFolder();
  writeFileSync(
    `${folder}/disk.qcow2`,
    sampleQcow2({ virtualSizeBytes: 1 << 20, dataClusters: [0], seed: 1 }),
  );
  await runCli(["device", "add", "vda", "disk.qcow2"], { cwd: folder });
  const before = readFileSync(`${folder}/disk.qcow2`);
  const line = ["rebase", "-u", "-b", "none.qcow2", "-F", "qcow2", "disk.qcow2"];
  const { status, stderr } = await runImg(folder, line, { program: "imgtx" });
  expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining("none.qcow2") as string });
  expect(readFileSync(`${folder}/disk.qcow2`).equals(before)).toBe(true);
});

test("commit leaves a device's image to the device's own action, and says which", async () => {
  const folder = makeFolder();
  const backing = { name: "base.qcow2", format: "qcow2" } as const;
  writeFileSync(
    `${folder}/base.qcow2`,
    sampleQcow2({ virtualSizeBytes: 1 << 20, dataClusters: [0], seed: 1 }),
  );
  writeFileSync(
    `${folder}/over.qcow2`,
    sampleQcow2({ virtualSizeBytes: 1 << 20, dataClusters: [3], seed: 2, backing }),
  );
  await runCli(["device", "add", "vda", "over.qcow2"], { cwd: folder });
  const { status, stderr } = await runImg(folder, ["commit", "over.qcow2"], { program: "imgtx" });
  expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining("'vda'") as string });
});
