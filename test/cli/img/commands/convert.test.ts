import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runBoth, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";
import { makeInterrupts } from "../../../helpers/cli/harness.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
qemu-img create -q -f qcow2 a.qcow2 8M
qemu-io -f qcow2 -c 'write -P 5 0 1M' -c 'write -P 6 3M 4k' -c 'write -P 7 3210k 1k' \\
  -c 'write -z 5M 1M' -c 'write -P 0 6M 128k' a.qcow2 > io
qemu-img snapshot -c before a.qcow2
qemu-io -f qcow2 -c 'write -P 8 512k 1M' a.qcow2 > io
qemu-img convert -O qcow2 -c a.qcow2 compressed.qcow2
qemu-img convert -O qcow2 -o cluster_size=4k,compat=0.10 a.qcow2 small.qcow2
qemu-img create -q -f qcow2 -o extended_l2=on -b a.qcow2 -F qcow2 over.qcow2 10M
qemu-io -f qcow2 -c 'write -P 9 2M 70k' -c 'write -z 0 64k' -c 'write -P 9 9M 6k' over.qcow2 > io
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 plain-over.qcow2
qemu-io -f qcow2 -c 'write -P 9 2M 70k' -c 'write -z 0 64k' plain-over.qcow2 > io
qemu-img convert -O raw a.qcow2 a.raw
head -c 1000 /dev/zero | tr '\\\\0' x > b.raw
head -c 3M /dev/zero > dense.raw
head -c 9M /dev/zero | tr '\\\\0' y > big.raw
qemu-img create -q -f qcow2 empty.qcow2 8M
rm io
`;

const RAW_TARGETS = [
  "a.qcow2 o",
  "-O raw a.qcow2 o",
  "-f qcow2 a.qcow2 o",
  "a.raw o",
  "-C a.raw o",
  "-C a.qcow2 o",
  "-W -m 16 a.raw o",
  "-m 1 a.qcow2 o",
  "-S 0 a.qcow2 o",
  "-S 64k a.qcow2 o",
  "-S 12k a.qcow2 o",
  "-S 4k dense.raw o",
  "compressed.qcow2 o",
  "small.qcow2 o",
  "over.qcow2 o",
  "b.raw o",
  "b.raw a.qcow2 b.raw o",
  "empty.qcow2 o",
  "-l before a.qcow2 o",
  "-l 1 a.qcow2 o",
  "-l snapshot.name=before a.qcow2 o",
  "-l snapshot.id=1 a.qcow2 o",
  "-U -T none -t writeback -q a.qcow2 o",
  "--salvage a.qcow2 o",
  "-o preallocation=falloc a.qcow2 o",
  "-r 100M b.raw o",
  "--image-opts driver=qcow2,file.filename=over.qcow2,backing.file.filename=empty.qcow2 o",
  "-n a.qcow2 big.raw",
  "-n b.raw dense.raw",
  "-n --target-is-zero -O raw b.raw dense.raw",
  "-n --target-image-opts b.raw driver=raw,file.filename=dense.raw",
];

const QCOW2_TARGETS = [
  "-O qcow2 a.qcow2 o",
  "-O qcow2 a.raw o",
  "-O qcow2 over.qcow2 o",
  "-O qcow2 b.raw o",
  "-O qcow2 b.raw a.qcow2 o",
  "-O qcow2 -S 0 a.qcow2 o",
  "-O qcow2 -W a.qcow2 o",
  "-O qcow2 -m 1 a.qcow2 o",
  "-O qcow2 -c a.qcow2 o",
  "-O qcow2 -c -W -m 16 a.raw o",
  "-O qcow2 -c -o compression_type=zstd a.qcow2 o",
  "-O qcow2 -c b.raw a.raw o",
  "-O qcow2 -C a.raw o",
  "-O qcow2 -o cluster_size=512,refcount_bits=1 a.qcow2 o",
  "-O qcow2 -o cluster_size=2M,compat=0.10 a.qcow2 o",
  "-O qcow2 -o extended_l2=on a.qcow2 o",
  "-O qcow2 -o preallocation=metadata a.qcow2 o",
  "-O qcow2 -o lazy_refcounts=on a.qcow2 o",
  "-O qcow2 -o data_file=d a.qcow2 o",
  "-O qcow2 -o data_file=d,data_file_raw=on a.qcow2 o",
  "-O qcow2 -B a.qcow2 -F qcow2 plain-over.qcow2 o",
  "-O qcow2 -B a.qcow2 -F qcow2 over.qcow2 o",
  "-O qcow2 -c -B a.qcow2 -F qcow2 plain-over.qcow2 o",
  "-O qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 plain-over.qcow2 o",
  "-n -O qcow2 a.qcow2 empty.qcow2",
  "-n -O qcow2 empty.qcow2 a.qcow2",
  "-n --target-is-zero -O qcow2 b.raw empty.qcow2",
  "-n -O qcow2 -B a.qcow2 -F qcow2 plain-over.qcow2 over.qcow2",
];

function targetOf(line: string): { name: string; format: string } {
  const last = line.split(" ").at(-1) ?? "";
  return {
    name: last.replace(/^.*file\.filename=/, ""),
    format: line.includes("-O qcow2") ? "qcow2" : "raw",
  };
}

/** What a guest reads, as qemu-img reads it. */
function guestDigest(folder: string, name: string, format: string): string {
  if (format !== "raw") shell(folder, `qemu-img convert -f ${format} -O raw ${name} .guest`);
  const digest = createHash("sha256")
    .update(readFileSync(`${folder}/${format === "raw" ? name : ".guest"}`))
    .digest("hex");
  return digest;
}

describe("convert makes the guest data that qemu-img makes, and prints and ends alike", () => {
  qemu.test.each([...RAW_TARGETS, ...QCOW2_TARGETS])("convert %s", async (line) => {
    const {
      qemu: theirs,
      ours,
      qemuFolder,
      ourFolder,
    } = await runBoth(IMAGES, ["convert", ...line.split(" ")]);
    expect(ours).toEqual(theirs);
    expect(theirs.status).toBe(0);
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    const { name, format } = targetOf(line);
    expect(guestDigest(ourFolder, name, format)).toBe(guestDigest(qemuFolder, name, format));
    if (format === "qcow2") {
      const check = spawnSync("qemu-img", ["check", name], { cwd: ourFolder, encoding: "utf8" });
      expect({ status: check.status, stderr: check.stderr, stdout: check.stdout }).toMatchObject({
        status: 0,
        stderr: "",
      });
      expect(check.stdout).toContain("No errors were found on the image.");
    }
  });
});

describe("convert takes no more space than qemu-img", () => {
  qemu.test.each(["a.qcow2 o", "-S 4k dense.raw o", "-O qcow2 a.raw o", "-O qcow2 -c a.raw o"])(
    "convert %s",
    async (line) => {
      const { qemuFolder, ourFolder } = await runBoth(IMAGES, ["convert", ...line.split(" ")]);
      const blocks = (folder: string): number => statSync(`${folder}/o`).blocks * 512;
      expect(blocks(ourFolder)).toBeLessThanOrEqual(blocks(qemuFolder) + 65536);
    },
  );
});

describe("convert refuses as qemu-img does, and leaves nothing", () => {
  qemu.test.each([
    "",
    "a.qcow2",
    "-O foo a.qcow2 o",
    "-f foo a.qcow2 o",
    "none o",
    "a.qcow2 none o",
    "-c -O raw a.qcow2 o",
    "-B a.qcow2 -O qcow2 plain-over.qcow2 o",
    "-B none -F qcow2 -O qcow2 plain-over.qcow2 o",
    "-O raw -B a.qcow2 -F qcow2 plain-over.qcow2 o",
    "-O qcow2 -B a.qcow2 -F qcow2 plain-over.qcow2 b.raw o",
    "-O qcow2 -F qcow2 a.qcow2 o",
    "-n -O qcow2 a.qcow2 none",
    "-n a.qcow2 b.raw",
    "--target-is-zero -O raw a.qcow2 o",
    "-o foo=1 -O qcow2 a.qcow2 o",
    "-o cluster_size=3 -O qcow2 a.qcow2 o",
    "-O qcow2 -o preallocation=metadata -c a.qcow2 o",
    "-m 0 a.qcow2 o",
    "-m 17 a.qcow2 o",
    "-m 4x a.qcow2 o",
    "-S 1 a.qcow2 o",
    "-S x a.qcow2 o",
    "-r foo a.qcow2 o",
    "-C -S 0 a.qcow2 o",
    "-C -c a.qcow2 o",
    "--salvage -C a.qcow2 o",
    "-n -o size=1 a.qcow2 o",
    "--target-image-opts a.qcow2 driver=raw,file.filename=o",
    "-n --target-image-opts -O raw a.qcow2 driver=raw,file.filename=b.raw",
    "-l foo a.qcow2 o",
    "-l snapshot.id=7 a.qcow2 o",
    "-l snapshot.id=before a.qcow2 o",
    "-l snapshot.name=1 a.qcow2 o",
    "-l snapshot.foo=1 a.qcow2 o",
    "-l 1 a.qcow2 b.raw o",
    "-t foo a.qcow2 o",
    "-T foo a.qcow2 o",
    "--bitmaps -O raw a.qcow2 o",
    "--bitmaps -O qcow2 b.raw o",
    "--bitmaps -O qcow2 a.qcow2 b.raw o",
    "--skip-broken-bitmaps a.qcow2 o",
    "-O qcow2 a.qcow2 nodir/o",
    "b.raw b.raw",
    "--frob a b",
  ])("convert %s", async (line) => {
    const words = ["convert", ...line.split(" ").filter((word) => word !== "")];
    const { qemu: theirs, ours, ourFolder } = await runBoth(IMAGES, words);
    expect(ours).toEqual(theirs);
    expect(theirs.status).toBe(1);
    expect(existsSync(`${ourFolder}/o`)).toBe(false);
  });

  qemu.test.each([["-p none o"], ["-p -O qcow2 a.qcow2 nodir/o"], ["-p -q none o"], ["-p b.raw o"]])(
    "convert %s shows progress at its ends",
    async (line) => {
      const { qemu: theirs, ours } = await runBoth(IMAGES, ["convert", ...line.split(" ")]);
      const ends = (text: string): unknown[] => [text.split("\r")[0], text.split("\r").at(-1)];
      expect(ends(ours.stdout)).toEqual(ends(theirs.stdout));
      expect({ ...ours, stdout: "" }).toEqual({ ...theirs, stdout: "" });
    },
  );
});

describe("-o help", () => {
  qemu.test.each(["-O qcow2 -o help", "-O qcow2 -o help a b", "-o help a"])("convert %s", async (line) => {
    const { qemu: theirs, ours } = await runBoth("", ["convert", ...line.split(" ")]);
    expect(ours).toEqual(theirs);
  });
});

describe("what goes wrong on the way", () => {
  const badImage = `
    qemu-img create -q -f qcow2 -o cluster_size=64k bad.qcow2 4M
    qemu-io -f qcow2 -c 'write -P 5 0 4M' bad.qcow2 > io; rm io
    # The entry of the third cluster points past the file.
    printf '\\x80\\x00\\x00\\x7f\\x00\\x00\\x00\\x00' | dd of=bad.qcow2 bs=1 seek=$((0x40000 + 16)) conv=notrunc status=none`;

  qemu.test("ends with an error, and takes the target away", async () => {
    const folder = makeFolder();
    shell(folder, badImage);
    const { status, stderr } = await runImg(folder, ["convert", "bad.qcow2", "o"]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^qemu-img: .*(0x7f00000000|offset)/);
    expect(existsSync(`${folder}/o`)).toBe(false);
  });

  qemu.test("--salvage puts zeros where nothing can be read, and warns", async () => {
    const folder = makeFolder();
    shell(folder, badImage);
    const { status, stdout, stderr } = await runImg(folder, ["convert", "--salvage", "bad.qcow2", "o"]);
    expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
    const warnings = stderr.trimEnd().split("\n");
    expect(warnings.length).toBe(128);
    expect(warnings[0]).toMatch(/^qemu-img: warning: error while reading offset 131072: /);
    const bytes = readFileSync(`${folder}/o`);
    const lost = bytes.subarray(131_072, 196_608);
    expect(lost.every((byte) => byte === 0)).toBe(true);
    expect(bytes.length).toBe(4 * 1024 * 1024);
    expect(bytes.every((byte, at) => (at >= 131_072 && at < 196_608) || byte === 5)).toBe(true);
    const quiet = await runImg(folder, ["convert", "-q", "--salvage", "bad.qcow2", "o"]);
    expect(quiet).toEqual({ status: 0, stdout: "", stderr: "" });
  });

  qemu.test("--salvage warns of the very sectors that qemu-img warns of, each once", async () => {
    const folder = makeFolder();
    // The entry of the third cluster is no multiple of a cluster: a read of it fails in both.
    const unaligned = String.raw`printf '\x80\x00\x00\x00\x00\x05\x02\x00'`;
    shell(
      folder,
      `qemu-img create -q -f qcow2 bad.qcow2 1M && qemu-io -f qcow2 -c 'write -q -P 5 0 1M' bad.qcow2
      ${unaligned} | dd of=bad.qcow2 bs=1 seek=$((0x40000 + 16)) conv=notrunc status=none
      cp bad.qcow2 theirs.qcow2; qemu-img convert --salvage -O raw theirs.qcow2 t.raw 2> theirs`,
    );
    const { stderr } = await runImg(folder, ["convert", "--salvage", "bad.qcow2", "o"]);
    const offsetsIn = (text: string) =>
      text.match(/(?<=^qemu-img: warning: error while reading offset )\d+/gm);
    expect(offsetsIn(stderr)).toEqual(offsetsIn(readFileSync(`${folder}/theirs`, "utf8")));
    expect(offsetsIn(stderr)?.length).toBe(128);
    expect(readFileSync(`${folder}/o`).equals(readFileSync(`${folder}/t.raw`))).toBe(true);
  });

  qemu.test("leaves a file that was there empty, since its content is gone", async () => {
    const folder = makeFolder();
    shell(folder, `${badImage}\nhead -c 100k /dev/urandom > o`);
    expect((await runImg(folder, ["convert", "bad.qcow2", "o"])).status).toBe(1);
    expect(statSync(`${folder}/o`).size).toBe(0);
  });

  test("an interrupt ends with 130, and takes the target away", async () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/a.raw`, Buffer.alloc(8 * 1024 * 1024, 1));
    const { onInterrupt, send } = makeInterrupts();
    // At this rate it would take hours: only the interrupt ends it.
    const running = runImg(folder, ["convert", "-r", "1k", "a.raw", "o"], { onInterrupt });
    while (!existsSync(`${folder}/o`)) await new Promise((resolve) => setTimeout(resolve, 5));
    send("SIGINT");
    expect(await running).toEqual({ status: 130, stdout: "", stderr: "qemu-img: interrupted\n" });
    expect(existsSync(`${folder}/o`)).toBe(false);
  });

  test("SIGUSR1 is answered with a line of progress", async () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/a.raw`, Buffer.alloc(3 * 1024 * 1024, 1));
    const { status, stderr } = await runImg(folder, ["convert", "-r", "8M", "a.raw", "o"], {
      onProgressRequest: (handler) => {
        setImmediate(handler);
        return () => undefined;
      },
    });
    expect(status).toBe(0);
    expect(stderr).toMatch(/^ {4}\(\d+\.\d\d\/100%\)\n$/);
  });
});

qemu.test("the backing image of the target is not the target, which qemu-img empties", async () => {
  const folder = makeFolder();
  shell(folder, IMAGES);
  const before = readFileSync(`${folder}/a.qcow2`);
  const words = ["convert", "-U", "-B", "a.qcow2", "-F", "qcow2", "-O", "qcow2", "b.raw", "a.qcow2"];
  const { status, stderr } = await runImg(folder, words);
  expect(status).toBe(1);
  expect(stderr).toMatch(/Failed to get "write" lock\nIs another process using the image \[a\.qcow2\]\?\n$/);
  expect(readFileSync(`${folder}/a.qcow2`).equals(before)).toBe(true);
});

describe("under the name of imgtx", () => {
  qemu.test("messages begin with it, and a hint may follow", async () => {
    const folder = makeFolder();
    const result = await runImg(folder, ["convert", "none", "o"], { program: "imgtx" });
    expect(result).toEqual({
      status: 1,
      stdout: "",
      stderr:
        "imgtx: Could not open 'none': Could not open 'none': No such file or directory\n" +
        "  hint: check the name, and that the file system is mounted: `ls -l FOLDER`\n",
    });
    expect((await runImg(folder, ["frob"], { program: "imgtx" })).stderr).toBe(
      "imgtx: Command not found: frob\nTry 'imgtx img --help' for more information\n",
    );
  });

  qemu.test("a raw image that a guest's overlay names elsewhere is not followed", async () => {
    const [folder, elsewhere] = [makeFolder(), makeFolder()];
    shell(elsewhere, "head -c 64k /dev/urandom > secret");
    shell(folder, `qemu-img create -q -f qcow2 -b ${elsewhere}/secret -F raw o.qcow2`);
    const refused = await runImg(folder, ["convert", "o.qcow2", "x"], { program: "imgtx" });
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/lies outside of the image's folder[^\n]*\n {2}hint: [^\n]*--allow-path/);
    expect(existsSync(`${folder}/x`)).toBe(false);
    const unnamed = ["convert", "--allow-path", "", "o.qcow2", "x"];
    expect(await runImg(elsewhere, unnamed, { program: "imgtx" })).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("--allow-path: the folder's name is empty") as string,
    });
    const words = ["convert", "--allow-path", elsewhere, "o.qcow2", "x"];
    expect((await runImg(folder, words, { program: "imgtx" })).status).toBe(0);
    expect(runQemu(folder, ["compare", "o.qcow2", "x"]).status).toBe(0);
  });
});
