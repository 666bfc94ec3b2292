// What is printed has the form of the version of qemu-img that is asked for: the same command lines, in one folder each,
// for each version that is there and for imgtx in its form.

import { readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { IMG_TABLE } from "../../../src/cli/img/table.ts";
import { newerQemu, oracle } from "../../helpers/oracles.ts";
import { LoopDisk } from "../../helpers/loop-disk.ts";
import { runCli } from "../../helpers/cli/harness.ts";
import {
  copyPrepared,
  makeFolder,
  type Printed,
  runImg,
  runQemuBatch,
  shell,
} from "../../helpers/cli/against-qemu.ts";

const IMAGES = `
qemu-img create -q -f qcow2 base.qcow2 3M
qemu-io -f qcow2 -c 'write -P 1 0 1M' base.qcow2 > /dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
mkdir sub; qemu-img create -q -f qcow2 -b ../mid.qcow2 -F qcow2 sub/top.qcow2
qemu-img create -q -f qcow2 -u -b base.qcow2 -F qcow2 -o compat=0.10 old.qcow2 1G
qemu-img create -q -f qcow2 -o data_file=external.raw,data_file_raw=on data.qcow2 1M
qemu-img create -q -f qcow2 -o compression_type=zstd,extended_l2=on,lazy_refcounts=on,refcount_bits=1 all.qcow2 1234567
qemu-img create -q -f qcow2 named.qcow2 64k
qemu-img snapshot -c 'ünïcode and a very long name' named.qcow2
qemu-img snapshot -c second named.qcow2
qemu-img bitmap --add -g 64k named.qcow2 b0
qemu-img convert -c -O qcow2 base.qcow2 compressed.qcow2
qemu-io -f qcow2 -c 'write -P 2 128k 64k' compressed.qcow2 > /dev/null
truncate -s 1000 odd.raw; printf x > byte.raw; : > empty.raw; truncate -s 1M r.raw
`;

/** Each prints the same, and leaves the same to those that follow. */
const LINES = `
info base.qcow2
info --output=json base.qcow2
info --backing-chain sub/top.qcow2
info --backing-chain --output=json sub/top.qcow2
info --output=json sub/top.qcow2
info --output=json data.qcow2
info all.qcow2
info old.qcow2
info named.qcow2
info --output=json named.qcow2
info odd.raw
info --output=json byte.raw
info empty.raw
info -f raw base.qcow2
info -f file base.qcow2
info --output=json -f file odd.raw
info file:base.qcow2
info json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}
info --image-opts driver=file,filename=base.qcow2
info --image-opts driver=raw,offset=65536,size=65536,file.filename=base.qcow2
info --output=json --image-opts driver=raw,offset=65536,file.filename=base.qcow2
info --output=xml base.qcow2
info --output
info --out
info --o=x
info --backing-chain=1 base.qcow2
info --nope=1 base.qcow2
info -Uz base.qcow2
info -f
info
info base.qcow2 mid.qcow2
info none.qcow2
map base.qcow2
map --output=json sub/top.qcow2
map --output=json odd.raw
map --output=json compressed.qcow2
map --start-offset 1Mb base.qcow2
map --max-length=-1 base.qcow2
map
snapshot -l named.qcow2
snapshot -l base.qcow2
snapshot
snapshot -l -c x base.qcow2
snapshot -c s r.raw
snapshot -a x base.qcow2
snapshot -d x base.qcow2
snapshot -c
snapshot -z base.qcow2
bitmap base.qcow2
bitmap --add base.qcow2
bitmap base.qcow2 x
bitmap --clear -g 1k base.qcow2 x
bitmap --add -g 1Mb base.qcow2 x
bitmap --add -F qcow2 base.qcow2 x
bitmap
resize base.qcow2 2M
resize base.qcow2 -20M
resize base.qcow2 10X
resize base.qcow2
resize
resize base.qcow2 0
resize base.qcow2 b 1G
resize --nope base.qcow2 1G
resize -x base.qcow2 1M
resize base.qcow2 -1M
resize base.qcow2 -- -1M
resize --preallocation=foo base.qcow2 12M
create
create -f qcow2 x.qcow2
create -f qcow2 x.qcow2 1Mb
create -f qcow2 x.qcow2 -- -1
create -f qcow2 x.qcow2 8192P
create -f qcow2 x.qcow2 4M
create -f qcow2 -b base.qcow2 -F qcow2 y.qcow2
create -f qcow2 -b base.qcow2 y.qcow2
create a 1M extra
create -f raw -o help x
create -f qcow2 -o data_file=d.raw d.qcow2 1M
check base.qcow2
check --output=json base.qcow2
check -r foo base.qcow2
check
check a b
measure --size 1Mb -O raw
measure --size 1G -O qcow2
compare base.qcow2
compare base.qcow2 mid.qcow2
convert
convert -m x base.qcow2 y
convert -m 99 base.qcow2 y
convert -S 1Mb base.qcow2 y
convert -r 1Mb base.qcow2 y
dd
dd bs=1x if=a of=b
dd count=x if=a of=b
commit
commit base.qcow2
commit -r 1Mb mid.qcow2
rebase
rebase base.qcow2
amend
amend base.qcow2
bench
bench a b
bench -c x base.qcow2
bench -d x base.qcow2
bench -s 1Mb base.qcow2
bench -o 1Mb base.qcow2
bench -S 1Mb base.qcow2
bench --pattern=x -w base.qcow2
bench --pattern=256 -w base.qcow2
bench --flush-interval=x -w base.qcow2
bench -c 5 --flush-interval=10 base.qcow2
bench --flush-interval=10 -d 20 -w base.qcow2
bench -i foo base.qcow2
bench -t foo base.qcow2
bench nope
bench -c 5 --pattern=3 mid.qcow2
bench -q -c 10 -d 3 -o 1M -s 64k -S 100k base.qcow2
bench -c 10 -o 20M base.qcow2
bench -c 100 -s 96k base.qcow2
bench -c 6 -w --pattern 5 -s 64k -S 128k compressed.qcow2
bench -c 7 -w --flush-interval=2 -d 2 -f raw r.raw
bench -c 6 -w --flush-interval=3 -d 2 --no-drain -f raw r.raw
nope

--nope
-x
`;

const FROM_10 = `
bench -s 0 base.qcow2
snapshot named.qcow2
info named.qcow2
`;

const FROM_11 = `
create -f qcow2 -o help
create -f qcow2 -o help x
create -f qcow2 -o data_file=d.raw,keep_data_file=on k.qcow2 1M
create -f qcow2 -o keep_data_file=on k.qcow2 1M
create -f qcow2 -o data_file=d.raw,data_file_raw=on,keep_data_file=on,preallocation=full k.qcow2 1M
create -f qcow2 -o data_file=none.raw,data_file_raw=on,keep_data_file=on k.qcow2 1M
create -f qcow2 -o data_file=base.qcow2,preallocation=metadata,keep_data_file=on k.qcow2 2M
check k.qcow2
create -f qcow2 -o data_file=external.raw,data_file_raw=on,keep_data_file=on k.qcow2 3M
info -f raw external.raw
info --limits base.qcow2
info --limits --output=json base.qcow2
info --limits odd.raw
info --limits -f raw r.raw
info --limits -t writeback --backing-chain all.qcow2
info -t foo base.qcow2
create -f qcow2 -B qcow2 -b base.qcow2 y.qcow2
measure -s 1G
bitmap --remove-all named.qcow2
bitmap --add named.qcow2 b1
bitmap --remove-all --add named.qcow2 b2
bitmap --remove-all --clear named.qcow2
bitmap --remove-all named.qcow2 x
resize x.qcow2 2M --shrink
`;

function wordsOf(lines: string): string[][] {
  return lines
    .trim()
    .split("\n")
    .map((line) => line.split(" ").filter((word) => word !== ""));
}

async function expectAlike(version: string, program: string, lines: string): Promise<void> {
  const [theirFolder, ourFolder] = [makeFolder(), makeFolder()];
  for (const folder of [theirFolder, ourFolder]) copyPrepared(IMAGES, folder);
  const all = wordsOf(lines);
  const theirs = runQemuBatch(program, theirFolder, all);
  const ours = [];
  for (const words of all) ours.push(await runImg(ourFolder, words, { env: { IMGTX_QEMU_IMG: version } }));
  const named = (printed: readonly Printed[]) =>
    printed.map(({ status, stdout, stderr }, at) => ({
      line: all[at]?.join(" "),
      status,
      stdout: stdout.replace(/\d+\.\d{3} seconds/, "N seconds"),
      stderr,
    }));
  expect(named(ours)).toEqual(named(theirs));
  // What was written is the same, too.
  for (const name of ["compressed.qcow2", "r.raw"]) {
    shell("/", `qemu-img compare ${theirFolder}/${name} ${ourFolder}/${name}`);
  }
}

describe("what imgtx prints is what the version prints that is asked for", () => {
  oracle("qemu-img", "qemu-io").test("7.2", async () => {
    await expectAlike("7.2", "qemu-img", LINES);
  });

  oracle("qemu-img", "qemu-io", "qemu-img-10").test("10", async () => {
    await expectAlike("10", newerQemu(10), `${LINES}${FROM_10}`);
  });

  oracle("qemu-img", "qemu-io", "qemu-img-11").test("11", async () => {
    await expectAlike("11", newerQemu(11), `${LINES}${FROM_10}${FROM_11}`);
  });
});

describe("the extent size hint of a file on XFS is told", () => {
  const LINES_ON_XFS = wordsOf(
    "info a.qcow2\ninfo --output=json a.qcow2\ninfo -f file a.qcow2\ninfo -f raw a.qcow2",
  );

  oracle("loops", "mkfs.xfs", "qemu-img", "qemu-img-10", "qemu-img-11").test.each([10, 11])(
    "as %i does",
    async (version) => {
      const { mountPoint } = LoopDisk.make(makeFolder(), "disk", "xfs");
      shell(mountPoint, "qemu-img create -q -f qcow2 a.qcow2 1M");
      const theirs = runQemuBatch(newerQemu(version), mountPoint, LINES_ON_XFS);
      for (const [at, words] of LINES_ON_XFS.entries()) {
        const env = { IMGTX_QEMU_IMG: String(version) };
        expect(await runImg(mountPoint, words, { env })).toEqual(theirs[at]);
        expect(theirs[at]?.stdout).toMatch(/extent.size.hint"?: 1048576/);
      }
    },
  );
});

oracle("qemu-img", "qemu-io").test(
  "keep_data_file=on makes a shell around a raw disk, which stays as it is",
  async () => {
    const folder = makeFolder();
    shell(
      folder,
      "truncate -s 1M disk.raw; qemu-io -f raw -c 'write -P 7 64k 64k' disk.raw; cp disk.raw before.raw",
    );
    const line = "create -f qcow2 -o data_file=disk.raw,data_file_raw=on,keep_data_file=on shell.qcow2 1M";
    expect(await runImg(folder, line.split(" "))).toMatchObject({ status: 0, stderr: "" });
    shell(
      folder,
      "cmp disk.raw before.raw; qemu-img compare -f raw -F qcow2 before.raw shell.qcow2; qemu-img check -q shell.qcow2",
    );
    const none = line.replace("disk.raw", "none.raw").replace("shell", "other");
    expect(await runImg(folder, none.split(" "))).toMatchObject({ status: 1 });
    expect(readdirSync(folder).toSorted()).toEqual(["before.raw", "disk.raw", "shell.qcow2"]);
  },
);

describe("the version", () => {
  test.each([
    [["--qemu-img", "7.2", "img", "map", "--output=json", "a.raw"]],
    [["--qemu-img=7.2", "--verbose", "img", "map", "--output=json", "a.raw"]],
    [["img", "--qemu-img=7.2", "map", "--output=json", "a.raw"]],
    [["--qemu-img", "11", "img", "map", "--output=json", "a.raw", "--qemu-img", "7.2"]],
  ])("is taken before img, after it and among the options, and the last one counts: %j", async (words) => {
    const folder = makeFolder();
    shell(folder, "truncate -s 1M a.raw");
    const older = await runCli(words, { cwd: folder });
    expect(older).toMatchObject({ status: 0, stderr: "" });
    expect(older.stdout).not.toContain("compressed");
    const unset = await runCli(
      words.filter((word) => !/^(--qemu-img|7\.2$|11$)/.test(word)),
      { cwd: folder },
    );
    expect(unset.stdout).toContain('"compressed": false');
  });

  test("that nobody knows is refused with those that are", async () => {
    const { status, stderr } = await runCli(["img", "--qemu-img", "9", "info", "x"], { cwd: "/" });
    expect(status).toBe(1);
    expect(stderr).toContain("imgtx: --qemu-img: '9' is none of 7.2, 8, 10, 11\n");
  });

  test("is no word that a name of qemu-img's is short for", async () => {
    const folder = makeFolder();
    expect(await runImg(folder, ["create", "--q", "a.raw", "1M"])).toEqual({
      status: 0,
      stdout: "",
      stderr: "",
    });
  });
});

describe("the help of a command names every option that the version names there", () => {
  const verbs = IMG_TABLE.map(({ verb }) => verb);
  for (const version of [10, 11]) {
    oracle(`qemu-img-${version}`).test(String(version), async () => {
      const lines = verbs.map((verb) => [verb, "--help"]);
      const theirs = runQemuBatch(newerQemu(version), makeFolder(), lines);
      const missing: string[] = [];
      for (const [at, words] of lines.entries()) {
        const { stdout } = await runImg(makeFolder(), words, { env: { IMGTX_QEMU_IMG: String(version) } });
        const ours = optionsIn(stdout);
        const unknown = optionsIn(theirs[at]?.stdout ?? "").filter((flag) => !ours.includes(flag));
        missing.push(...unknown.map((flag) => `${words[0]} ${flag}`));
      }
      expect(missing).toEqual([]);
    });
  }
});

/** Where a help explains them. One is misspelled there; the parser has the whole word. */
function optionsIn(help: string): string[] {
  const terms = help.split("\n").filter((line) => line.startsWith("  -"));
  const flags = terms.flatMap((line) => line.match(/(?<![\w-])--?[a-z][\w-]*/gi) ?? []);
  return flags.map((flag) => (flag === "--progres" ? "--progress" : flag));
}
