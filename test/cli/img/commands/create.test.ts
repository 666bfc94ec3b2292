import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeInterrupts } from "../../../helpers/cli/harness.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runBoth, runImg, shell } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = [
  "qemu-img create -q -f qcow2 a.qcow2 64M",
  "qemu-img create -q -f raw b.raw 1000",
  "qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 c.qcow2",
].join("\n");

describe("create prints, ends and makes what qemu-img does", () => {
  qemu.test.each([
    "-f qcow2 x.qcow2 64M",
    "-f raw x.raw 1000",
    "x.raw 1.5M",
    "-q -f qcow2 x.qcow2 1G",
    "x -q -fqcow2 1M",
    "-f qcow2 x.qcow2 1",
    "-f qcow2 x.qcow2 0",
    "-f qcow2 -b a.qcow2 -F qcow2 x.qcow2",
    "-f qcow2 -b b.raw -F raw x.qcow2 10M",
    "-f qcow2 -b c.qcow2 -F qcow2 x.qcow2",
    "-f qcow2 -u -b none.qcow2 -F qcow2 x.qcow2 1G",
    "-f qcow2 -o backing_file=b.raw,backing_fmt=raw x.qcow2",
    "-f qcow2 -b b.raw -F raw -o backing_file=a.qcow2 x.qcow2",
    "-f qcow2 -o size=1G x.qcow2",
    "-f qcow2 -o cluster_size=2M,cluster_size=1M x.qcow2 1G",
    "-f qcow2 -o lazy_refcounts x.qcow2 1M",
    "-f qcow2 -o nolazy_refcounts x.qcow2 1M",
    "-f qcow2 -o compat=0.10 x.qcow2 1M",
    "-f qcow2 -o compat=v3,refcount_bits=1,cluster_size=512 x.qcow2 1M",
    "-f qcow2 -o extended_l2=on,compression_type=zstd x.qcow2 1M",
    "-f qcow2 -o preallocation=metadata x.qcow2 64M",
    "-f qcow2 -o preallocation=falloc x.qcow2 4M",
    "-f qcow2 -o preallocation=full x.qcow2 4M",
    "-f qcow2 -o data_file=d.raw x.qcow2 4M",
    "-f qcow2 -o data_file=d.raw,data_file_raw=on x.qcow2 4M",
    "-f raw -o preallocation=full x.raw 1M",
    "-f raw -o preallocation=falloc,nocow=off x.raw 1M",
  ])("create %s", async (line) => {
    const {
      qemu: theirs,
      ours,
      qemuFolder,
      ourFolder,
    } = await runBoth(IMAGES, ["create", ...line.split(" ")]);
    expect(ours).toEqual(theirs);
    expect(theirs.status).toBe(0);
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    for (const name of readdirSync(ourFolder)) {
      expect(
        Buffer.compare(readFileSync(`${ourFolder}/${name}`), readFileSync(`${qemuFolder}/${name}`)),
      ).toBe(0);
    }
  });
});

describe("create refuses as qemu-img does, and leaves nothing", () => {
  qemu.test.each([
    "",
    "x 1M 2M",
    "x 1X",
    "x -1",
    "x 8E",
    "-f",
    "-f foo x 1M",
    "-f qcow2 x",
    "-f qcow2 -o , x 1M",
    "-f qcow2 -o foo=bar x 1M",
    "-f qcow2 -o cluster_size=3 x 1M",
    "-f qcow2 -o cluster_size=x x 1M",
    "-f qcow2 -o refcount_bits=x x 1M",
    "-f qcow2 -o refcount_bits=7 x 1M",
    "-f qcow2 -o lazy_refcounts=maybe x 1M",
    "-f qcow2 -o size=1G x 3M",
    "-f qcow2 -o preallocation=foo x 1M",
    "-f qcow2 -o compat=foo x 1M",
    "-f qcow2 -o compression_type=foo x 1M",
    "-f qcow2 -o data_file_raw=on x 1M",
    "-f qcow2 -o extended_l2=on,compat=v2 x 1M",
    "-f qcow2 -o compat=v2,lazy_refcounts=on x 1M",
    "-f qcow2 -o compat=v2,refcount_bits=8 x 1M",
    "-f qcow2 -o extended_l2=on,cluster_size=4k x 1M",
    "-f qcow2 -ocluster_size=512 x 130G",
    "-f raw -b a.qcow2 x 1M",
    "-f raw -o backing_file=a.qcow2 x 1M",
    "-f qcow2 -b a.qcow2 x",
    "-f qcow2 -b none.qcow2 -F qcow2 x 1G",
    "-f qcow2 -b nodir/b.raw -F raw x",
    "-f qcow2 -u -b none.qcow2 -F qcow2 x",
    "-f qcow2 -u -b a.qcow2 x 1M",
    "-f qcow2 -F raw x 1M",
    "-f qcow2 -F foo x 1M",
    "-f qcow2 -F foo -b b.raw x 1M",
    "-f qcow2 -F qcow2 -b b.raw x 1M",
    "-f qcow2 -F raw -b x x 1M",
    "-f qcow2 -o backing_file=b.raw,backing_fmt=raw,preallocation=metadata x",
    "nodir/x 1M",
    "--frob x",
    "-Z x",
    "--nope raw x 1M",
  ])("create %s", async (line) => {
    const words = ["create", ...line.split(" ").filter((word) => word !== "")];
    const { qemu: theirs, ours, ourFolder } = await runBoth(IMAGES, words);
    expect(ours).toEqual(theirs);
    expect(theirs.status).toBe(1);
    expect(readdirSync(ourFolder)).toEqual(["a.qcow2", "b.raw", "c.qcow2"]);
  });
});

describe("-o help", () => {
  qemu.test.each(["-o help", "-f qcow2 -o help", "-f qcow2 -o help x", "-f raw -o size=1G,help x"])(
    "create %s prints what qemu-img prints",
    async (line) => {
      const { qemu: theirs, ours } = await runBoth("", ["create", ...line.split(" ")]);
      expect(ours).toEqual(theirs);
    },
  );
});

describe("an existing file", () => {
  test("is emptied in place, and keeps its mode", async () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/x`, Buffer.alloc(5_000_000, 1), { mode: 0o640 });
    const { ino } = statSync(`${folder}/x`);
    expect((await runImg(folder, ["create", "-q", "x", "1M"])).status).toBe(0);
    const after = statSync(`${folder}/x`);
    expect({ ino: after.ino, mode: after.mode & 0o777, size: after.size }).toEqual({
      ino,
      mode: 0o640,
      size: 2 ** 20,
    });
    expect(readFileSync(`${folder}/x`).every((byte) => byte === 0)).toBe(true);
  });

  test("is left alone when the options are refused", async () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/x`, "precious");
    const words = ["create", "-f", "qcow2", "-o", "refcount_bits=7", "x", "1M"];
    expect((await runImg(folder, words)).status).toBe(1);
    expect(readFileSync(`${folder}/x`, "utf8")).toBe("precious");
  });
});

test("an interrupt stops full preallocation, and takes the image away", async () => {
  const folder = makeFolder();
  const { onInterrupt, send } = makeInterrupts();
  const words = ["create", "-q", "-o", "preallocation=full", "x", "2G"];
  const running = runImg(folder, words, { onInterrupt });
  while (!existsSync(`${folder}/x`)) await new Promise((resolve) => setTimeout(resolve, 1));
  send("SIGINT");
  expect(await running).toEqual({ status: 130, stdout: "", stderr: "qemu-img: interrupted\n" });
  expect(readdirSync(folder)).toEqual([]);
});

const daemon = oracle("qemu-img", "qemu-storage-daemon");

describe("while a guest writes", () => {
  const withDaemon = async (work: (folder: string) => Promise<void>): Promise<void> => {
    const folder = makeFolder();
    shell(
      folder,
      `qemu-img create -q -f qcow2 a.qcow2 1M
       qemu-storage-daemon --blockdev file,filename=a.qcow2,node-name=f --blockdev qcow2,file=f,node-name=q \\
         --export vhost-user-blk,id=e,node-name=q,addr.type=unix,addr.path=$PWD/s,writable=on \\
         --daemonize --pidfile pid`,
    );
    try {
      await work(folder);
    } finally {
      shell(folder, 'kill "$(cat pid)"');
    }
  };

  daemon.test("its image is not made anew, in qemu-img's words", async () => {
    await withDaemon(async (folder) => {
      const before = readFileSync(`${folder}/a.qcow2`);
      const { status, stderr } = await runImg(folder, ["create", "-f", "qcow2", "a.qcow2", "1M"]);
      expect(status).toBe(1);
      expect(stderr).toBe(
        'qemu-img: a.qcow2: Failed to get "write" lock\nIs another process using the image [a.qcow2]?\n',
      );
      expect(readFileSync(`${folder}/a.qcow2`).equals(before)).toBe(true);
    });
  });

  daemon.test("no overlay is put on its image, which qemu-img does", async () => {
    await withDaemon(async (folder) => {
      const words = ["create", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "x.qcow2"];
      const { status, stderr } = await runImg(folder, words, { program: "imgtx" });
      expect(status).toBe(1);
      expect(stderr).toMatch(
        /^imgtx: x\.qcow2: Failed to get shared "write" lock\nIs another process using the image \[a\.qcow2\]\?\n/,
      );
      expect(readdirSync(folder)).not.toContain("x.qcow2");
    });
  });
});
