import { hash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { checkQcow2, type CheckResult } from "../../../../src/format/index.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { startEffort } from "../../../helpers/effort.ts";
import { FIXTURES } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";
import {
  type Printed,
  copyPrepared,
  makeFolder,
  runBoth,
  runImg,
  runQemu,
  shell,
} from "../../../helpers/cli/against-qemu.ts";
import { runCli } from "../../../helpers/cli/harness.ts";
import {
  fixtureFolder,
  formatWords,
  HANGS_QEMU,
  runOnFixtures,
  runOnImages,
} from "../../../helpers/cli/fixtures-against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** Where imgtx ends otherwise than qemu-img, and why. */
const DIFFERS: Readonly<Record<string, { status: number; because: string }>> = {
  "corrupt/header-truncated-v2.qcow2": { status: 1, because: "the file ends inside the header" },
  "corrupt/extensions-unended.qcow2": { status: 1, because: "the extensions have no end mark" },
  "corrupt/feature-table-odd.qcow2": { status: 1, because: "the feature name table ends inside an entry" },
  "corrupt/backing-nbd.qcow2": { status: 0, because: "a backing image elsewhere is not needed" },
  "corrupt/backing-https.qcow2": { status: 0, because: "a backing image elsewhere is not needed" },
  "corrupt/backing-format-unknown.qcow2": { status: 0, because: "the backing image is not needed" },
  "corrupt/backing-self-raw.qcow2": { status: 1, because: "an image that backs itself is refused" },
  "corrupt/backing-self.qcow2": { status: 1, because: "qemu-img hangs" },
  "corrupt/foreign.vmdk": { status: 1, because: "another format" },
  "corrupt/foreign.vdi": { status: 1, because: "another format" },
  "corrupt/foreign.qed": { status: 1, because: "another format" },
  "corrupt/foreign.qcow": { status: 1, because: "qemu-img says 63: a format that it has no check for" },
};

/** Findings in any order: qemu-img walks tables in another one. */
function findings({ stderr }: Printed): string[] {
  return stderr
    .split("\n")
    .map((line) => line.replace(/^.*to fix\.(?=Leaked)/, ""))
    .filter((line) => /^(ERROR|Leaked|Can't|Use qemu-img amend)/.test(line))
    .sort();
}

function expectSame(ours: Printed, theirs: Printed): void {
  expect({ ...ours, stderr: findings(ours) }).toEqual({ ...theirs, stderr: findings(theirs) });
}

describe("check of a fixture finds and prints what qemu-img check does", () => {
  qemu.test.each(FIXTURES.map(({ name, format }) => ({ name, format })))(
    "$name",
    async ({ name, format }) => {
      const differs = DIFFERS[name];
      const words = ["check", ...formatWords(format), "--output=json", name];
      if (HANGS_QEMU.has(name)) {
        expect(await runImg(await fixtureFolder(), words)).toMatchObject({ status: differs?.status });
        return;
      }
      const { qemu: theirs, ours } = await runOnFixtures(words);
      if (differs === undefined) {
        expectSame(ours, theirs);
      } else {
        expect(theirs.status).not.toBe(differs.status);
        expect(ours.status).toBe(differs.status);
      }
    },
  );
});

const IMAGES = `
qemu-img create -q -f qcow2 sound.qcow2 4M
qemu-io -c 'write -P 1 0 1M' -c 'write -z 2M 1M' sound.qcow2 > io
cp sound.qcow2 leaking.qcow2
printf '\\0\\1' | dd of=leaking.qcow2 bs=1 seek=$((0x20000 + 2 * 40)) conv=notrunc status=none
cp sound.qcow2 broken.qcow2
printf '\\0\\0' | dd of=broken.qcow2 bs=1 seek=$((0x20000 + 2 * 6)) conv=notrunc status=none
cp broken.qcow2 both.qcow2
printf '\\0\\1' | dd of=both.qcow2 bs=1 seek=$((0x20000 + 2 * 40)) conv=notrunc status=none
qemu-img create -q -f qcow2 -b sound.qcow2 -F qcow2 over.qcow2
qemu-img create -q -f qcow2 -u -b none.qcow2 -F qcow2 orphan.qcow2 1M
qemu-img create -q -f raw plain.raw 1M
rm io
`;

describe("check prints and ends as qemu-img does", () => {
  qemu.test.each([
    "sound.qcow2",
    "leaking.qcow2",
    "broken.qcow2",
    "both.qcow2",
    "over.qcow2",
    "-q both.qcow2",
    "--output=json both.qcow2",
    "--output json -q sound.qcow2",
    "-f qcow2 sound.qcow2",
    "-f raw sound.qcow2",
    "plain.raw",
    "--output=json plain.raw",
    "-f qcow2 plain.raw",
    "-f foo sound.qcow2",
    "orphan.qcow2",
    "none.qcow2",
    "-T none sound.qcow2",
    "-T foo sound.qcow2",
    "-U sound.qcow2",
    "--image-opts driver=qcow2,file.filename=both.qcow2",
    "--image-opts --output=json driver=qcow2,file.filename=both.qcow2",
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"orphan.qcow2"},"backing":null}',
    "--image-opts driver=qcow2,file.filename=orphan.qcow2",
    'json:{"driver":"qcow2","file":{"driver":"file","filename":"both.qcow2"}}',
    "-r foo sound.qcow2",
    "",
    "sound.qcow2 both.qcow2",
    "--output=xml sound.qcow2",
  ])("check %s", async (line) => {
    const { qemu: theirs, ours } = await runOnImages(IMAGES, ["check", ...line.split(" ").filter(Boolean)]);
    expect(ours).toEqual(theirs);
  });
});

const DAMAGED = `${IMAGES}
cp sound.qcow2 twice.qcow2
printf '\\0\\2' | dd of=twice.qcow2 bs=1 seek=$((0x20000 + 2 * 6)) conv=notrunc status=none
cp twice.qcow2 lacking.qcow2
printf '\\0' | dd of=lacking.qcow2 bs=1 seek=$((0x40000 + 8 * 1)) conv=notrunc status=none
cp sound.qcow2 low.qcow2
qemu-img snapshot -c one low.qcow2
printf '\\0\\1' | dd of=low.qcow2 bs=1 seek=$((0x20000 + 2 * 6)) conv=notrunc status=none
cp sound.qcow2 dirty.qcow2
printf '\\3' | dd of=dirty.qcow2 bs=1 seek=79 conv=notrunc status=none
cp sound.qcow2 wild.qcow2
printf '\\2' | dd of=wild.qcow2 bs=1 seek=$((0x40000 + 7)) conv=notrunc status=none
`;

/** What a guest reads of each image, and whether it is sound. */
function describeImage(folder: string, image: string): string {
  expect(runQemu(folder, ["convert", "-O", "raw", image, "out"]).status).toBe(0);
  const guest = hash("sha256", readFileSync(`${folder}/out`));
  rmSync(`${folder}/out`);
  const lines = runQemu(folder, ["check", image]).stdout.split("\n");
  return [guest, ...lines.filter((line) => !line.startsWith("Image"))].join("\n");
}

describe("check -r repairs, prints and ends as qemu-img does", () => {
  const images = ["sound", "twice", "lacking", "low", "dirty", "broken"];
  qemu.test.each([
    ...images.map((image) => `-r all ${image}.qcow2`),
    ...images.slice(0, -1).map((image) => `-r leaks ${image}.qcow2`),
    "--repair=all --output=json lacking.qcow2",
    "--output json -r leaks -f qcow2 twice.qcow2",
    "-q -r all twice.qcow2",
    "-r all plain.raw",
    "-r all -U twice.qcow2",
    "-r all orphan.qcow2",
    "-r all --image-opts driver=qcow2,file.filename=twice.qcow2",
  ])("check %s", async (line) => {
    const {
      qemu: theirs,
      ours,
      qemuFolder,
      ourFolder,
    } = await runBoth(DAMAGED, ["check", ...line.split(" ")]);
    const lines = ({ stderr }: Printed): unknown => new Set(stderr.split("\n").sort());
    // Where a cluster in use has a count of 0 qemu-img makes all refcounts anew, at the end of the file.
    const isRebuilt = line.includes("broken");
    const printed = (one: Printed): unknown => ({
      status: one.status,
      stdout: isRebuilt ? one.stdout.replace(/Image end.*/, "") : one.stdout,
      lines: isRebuilt ? undefined : lines(one),
    });
    expect(printed(ours)).toEqual(printed(theirs));
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    const image = /(\w+\.qcow2)$/.exec(line)?.[1];
    if (image !== undefined && image !== "orphan.qcow2") {
      expect(describeImage(ourFolder, image)).toBe(describeImage(qemuFolder, image));
    }
  });

  qemu.test("but -r leaks goes on where errors stay, and tells them, where qemu-img gives up", async () => {
    const words = ["check", "-r", "leaks", "broken.qcow2"];
    const { qemu: theirs, ours } = await runBoth(DAMAGED, words);
    expect(theirs).toMatchObject({ status: 1, stdout: "" });
    expect(ours).toMatchObject({
      status: 2,
      stdout: expect.stringContaining("2 errors") as string,
      stderr: expect.stringContaining("ERROR cluster 6 refcount=0 reference=1") as string,
    });
  });
});

qemu.test("what can't be true, and an image with a fence, is not repaired, and stays as it is", async () => {
  const { ourFolder } = await runBoth(DAMAGED, ["check", "sound.qcow2"]);
  const attempt = async (image: string): Promise<Printed> => {
    const before = readFileSync(`${ourFolder}/${image}`);
    const printed = await runImg(ourFolder, ["check", "-r", "all", image], { program: "imgtx" });
    expect(readFileSync(`${ourFolder}/${image}`).equals(before)).toBe(true);
    return printed;
  };
  expect(await attempt("wild.qcow2")).toMatchObject({
    status: 2,
    stderr: expect.stringMatching(/^ERROR found l2 entry with reserved bits set/) as string,
  });
  await runCli(["device", "add", "vda", "twice.qcow2"], { cwd: ourFolder });
  await runCli(["freeze", "vda"], { cwd: ourFolder });
  shell(ourFolder, "cp twice.qcow2 fenced.qcow2");
  expect(await attempt("fenced.qcow2")).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("the image is frozen") as string,
  });
});

interface Layout {
  readonly options: string;
  /** Guest size, and the granularity of what is written. */
  readonly sizeBytes: number;
}

const LAYOUTS: readonly Layout[] = [
  { options: "compat=0.10", sizeBytes: 2 ** 24 },
  { options: "cluster_size=512", sizeBytes: 2 ** 20 },
  { options: "cluster_size=4k,refcount_bits=1", sizeBytes: 2 ** 22 },
  { options: "cluster_size=4k,refcount_bits=2", sizeBytes: 2 ** 22 },
  { options: "cluster_size=1k,refcount_bits=64", sizeBytes: 2 ** 21 },
  { options: "refcount_bits=8,compression_type=zstd", sizeBytes: 2 ** 24 },
  { options: "cluster_size=2M,refcount_bits=32", sizeBytes: 2 ** 26 },
  { options: "extended_l2=on", sizeBytes: 2 ** 24 },
  { options: "extended_l2=on,cluster_size=16k,preallocation=metadata", sizeBytes: 2 ** 22 },
  { options: "preallocation=metadata", sizeBytes: 2 ** 24 },
  { options: "data_file=external.raw", sizeBytes: 2 ** 24 },
  { options: "data_file=external.raw,data_file_raw=on", sizeBytes: 2 ** 24 },
  { options: "lazy_refcounts=on", sizeBytes: 2 ** 24 },
];

/** A bit of everything that the layout allows: data, zeros, discards, compressed clusters, snapshots, bitmaps. */
function fill({ options, sizeBytes }: Layout): string {
  const part = sizeBytes / 16;
  const io = (...commands: string[]): string =>
    `qemu-io -f qcow2 ${commands.map((command) => `-c '${command}'`).join(" ")} disk.qcow2 > /dev/null`;
  const isExternal = options.includes("data_file");
  // Too narrow for compressed clusters that share a cluster of the file, and for snapshots of those.
  const isNarrow = /refcount_bits=[12](,|$)/.test(options);
  const isPreallocated = options.includes("preallocation");
  const hasBitmaps = !options.includes("0.10");
  return [
    `qemu-img create -q -f qcow2 -o ${options} disk.qcow2 ${sizeBytes}`,
    io(`write -P 1 0 ${part}`, `write -P 2 ${5 * part} 512`, `write -z ${2 * part} ${part}`),
    isExternal || isPreallocated ? "" : io(`write -c -P 3 ${8 * part} ${part}`),
    isExternal || isNarrow ? "" : "qemu-img snapshot -c one disk.qcow2",
    io(`write -P 4 512 ${part}`, `discard ${5 * part} ${part}`, `write -P 5 ${12 * part} 1k`),
    isExternal || isNarrow ? "" : "qemu-img snapshot -c two disk.qcow2",
    hasBitmaps ? "qemu-img bitmap --add disk.qcow2 marks" : "",
    hasBitmaps ? io(`write -P 6 ${10 * part} ${part}`) : "",
  ].join("\n");
}

/** Bytes to overwrite, as places among the image's first clusters, spread by a fixed rule. */
function damage(sound: Buffer, clusters: number, clusterBytes: number, round: number): Buffer {
  const bytes = Buffer.from(sound);
  let state = 2_654_435_761 * (round + 1);
  for (let hit = 0; hit < 3; hit += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    // After the header: its fields are for other tests.
    const cluster = 1 + (state % clusters);
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const at = cluster * clusterBytes + (state % Math.min(256, clusterBytes));
    if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ (1 << (state >>> 29));
  }
  return bytes;
}

describe("check agrees with qemu-img check on images of every layout", () => {
  qemu.test.each(LAYOUTS)("$options", async (layout) => {
    const folder = makeFolder();
    copyPrepared(fill(layout), folder);
    expectSame(await runImg(folder, ["check", "disk.qcow2"]), runQemu(folder, ["check", "disk.qcow2"]));
  });

  qemu.test.each(LAYOUTS)("$options, with bits flipped in its tables", async (layout) => {
    const folder = makeFolder();
    copyPrepared(fill(layout), folder);
    const sound = readFileSync(`${folder}/disk.qcow2`);
    const clusterBytes = 2 ** sound.readUInt32BE(20);
    let judged = 0;
    for (let round = 0; round < 5; round += 1) {
      writeFileSync(`${folder}/disk.qcow2`, damage(sound, 12, clusterBytes, round));
      const words = ["check", "--output=json", "disk.qcow2"];
      const [theirs, ours] = [runQemu(folder, words), await runImg(folder, words)];
      // Where either can't go on, both can't.
      if (theirs.stdout === "" || ours.stdout === "") {
        expect([round, ours.status, ours.stdout]).toEqual([round, theirs.status, theirs.stdout]);
      } else {
        expectSame(ours, theirs);
        judged += 1;
      }
    }
    expect(judged).toBeGreaterThan(0);
  });
});

test("Ctrl-C ends a check, and gives its status", async () => {
  const ended = await runImg(makeEmptyTables(), ["check", "disk.qcow2"], {
    onInterrupt: (listener) => {
      setImmediate(() => listener("SIGINT"));
      return () => undefined;
    },
  });
  expect(ended).toMatchObject({ status: 130, stdout: "" });
});

/** An image of 512-byte clusters whose 65,536 L2 tables are all there, and map nothing. */
function makeEmptyTables(): string {
  const folder = makeFolder();
  const entries = 65_536;
  const tablesAt = 4 * 512 + entries * 8;
  const bytes = Buffer.alloc(tablesAt + entries * 512);
  bytes.writeUInt32BE(0x514649fb, 0);
  bytes.writeUInt32BE(2, 4);
  bytes.writeUInt32BE(9, 20);
  bytes.writeBigUInt64BE(2n ** 30n, 24);
  bytes.writeUInt32BE(entries, 36);
  bytes.writeBigUInt64BE(BigInt(4 * 512), 40);
  bytes.writeBigUInt64BE(512n, 48);
  bytes.writeUInt32BE(1, 56);
  for (let index = 0; index < entries; index += 1) {
    bytes.writeBigUInt64BE(BigInt(tablesAt + index * 512), 4 * 512 + index * 8);
  }
  writeFileSync(`${folder}/disk.qcow2`, bytes);
  return folder;
}

async function checkFile(path: string): Promise<{ result: CheckResult; lines: number }> {
  let lines = 0;
  const file = await makeNodeStorage().openFile(path, "read");
  try {
    const result = await checkQcow2(file, () => {
      lines += 1;
    });
    return { result, lines };
  } finally {
    await file.close();
  }
}

qemu.test("counts the header of an encrypted image, for those who can open it", async () => {
  const folder = makeFolder();
  const secret = "--object secret,id=s0,data=abc";
  shell(
    folder,
    // On a busy machine QEMU often finds no 'accurate CPU usage' by which to choose how hard its key is to guess.
    `for try in $(seq 1000); do
       qemu-img create -q -f qcow2 ${secret} -o encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10 disk.qcow2 4M 2> said && exit
     done; cat said >&2; exit 1`,
  );
  const options = "driver=qcow2,file.filename=disk.qcow2,encrypt.key-secret=s0";
  const words = ["check", "--output=json", ...secret.split(" "), "--image-opts", options];
  const theirs = JSON.parse(runQemu(folder, words).stdout) as Record<string, number>;
  const { result, lines } = await checkFile(`${folder}/disk.qcow2`);
  expect(lines).toBe(0);
  expect(result.imageEndOffset).toBe(theirs["image-end-offset"]);
  expect(await runImg(folder, ["check", "disk.qcow2"])).toMatchObject({ status: 1 });
});

test("tables that a forged L1 table names by the thousand, each one sector further, come to an end", async () => {
  const path = forgeOverlappingTables();
  const effort = startEffort();
  const { result } = await checkFile(path);
  expect(result.corruptions).toBeGreaterThan(60_000);
  expect(effort()).toBeLessThan(10_000);
});

/** Clusters of 2 MiB, and an L1 table whose 65,536 entries begin a table at every sector of 32 MiB. */
function forgeOverlappingTables(): string {
  const path = `${makeFolder()}/forged.qcow2`;
  const clusterBytes = 2 ** 21;
  const entries = 65_536;
  const bytes = Buffer.alloc(3 * clusterBytes);
  bytes.writeUInt32BE(0x514649fb, 0);
  bytes.writeUInt32BE(2, 4);
  bytes.writeUInt32BE(21, 20);
  bytes.writeBigUInt64BE(2n ** 30n, 24);
  bytes.writeUInt32BE(entries, 36);
  bytes.writeBigUInt64BE(BigInt(2 * clusterBytes), 40);
  bytes.writeBigUInt64BE(BigInt(clusterBytes), 48);
  bytes.writeUInt32BE(1, 56);
  for (let index = 0; index < entries; index += 1) {
    bytes.writeBigUInt64BE(BigInt(3 * clusterBytes + index * 512), 2 * clusterBytes + index * 8);
  }
  const data = Buffer.alloc(20 * clusterBytes, 1);
  writeFileSync(path, Buffer.concat([bytes, data]));
  return path;
}
