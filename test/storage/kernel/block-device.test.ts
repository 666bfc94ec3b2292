// Block devices of this machine, which are loop devices: what the conformance suite asks of each device, and what only a
// kernel can show.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished } from "vitest";
import { acquireImageLocks, makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { SystemCallError } from "../../../src/storage/native/native-functions.ts";
import { loadSystemCalls } from "../../../src/storage/native/system-calls.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { attachLoop, detachLoop } from "../../helpers/loop-device.ts";
import { command } from "../../helpers/loop-disk.ts";
import { oracle } from "../../helpers/oracles.ts";
import { sourceProgram } from "../../helpers/source-program.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { DEVICE_BYTES, describeDevices } from "../conformance/devices.ts";
import { pattern, readAll } from "../conformance/subject.ts";

const loops = oracle("root", "loops", "qemu-io");
const ENOTSUP = 95;
const NO_WAITING = { waitMs: 0, onWait: () => undefined };

function makeDevice(storage: Storage) {
  const root = makeFolder("on a disk");
  writeFileSync(`${root}/volume`, pattern(DEVICE_BYTES));
  return { storage, root, device: attachLoop(`${root}/volume`) };
}

/** Another node of the device, until the test ends. */
function makeNode(device: string, name: string): string {
  const number = readFileSync(`/sys/class/block/${device.slice(5)}/dev`, "utf8");
  const node = `/dev/${name}`;
  command("mknod", node, "b", ...number.trim().split(":"));
  onTestFinished(() => {
    rmSync(node);
  });
  return node;
}

const refuse = (): never => {
  throw new SystemCallError("fallocate", ENOTSUP);
};

describeDevices("this machine", loops.test, async () => makeDevice(makeNodeStorage()));
describeDevices("this machine that can't clear ranges", loops.test, async () =>
  makeDevice(
    makeNodeStorage({
      loadSystemCalls: () => ({ ...loadSystemCalls(), punchHole: refuse, zeroRange: refuse }),
    }),
  ),
);

/** Of one partition, from sector 2048 on. */
function partitionTable(): Uint8Array {
  const sector = new Uint8Array(512);
  const view = new DataView(sector.buffer);
  sector[450] = 0x83;
  view.setUint32(454, 2048, true);
  view.setUint32(458, 4096, true);
  view.setUint16(510, 0xaa55, true);
  return sector;
}

const DEVICE = { mayBeDevice: true };

loops.test("what a guest writes past the page cache is read, and what is flushed here it reads", async () => {
  const storage = makeNodeStorage();
  const { device } = makeDevice(storage);
  const file = await storage.openFile(device, "write", DEVICE);
  await readAll(file);
  command("qemu-io", "-n", "-t", "none", "-f", "raw", "-c", "write -P 0x31 8k 4k", device);
  expect((await readAll(file)).subarray(8192, 12288).every((byte) => byte === 0x31)).toBe(true);
  await file.write(new Uint8Array(4096).fill(0x32), 16384);
  await file.flush("test");
  command("qemu-io", "-t", "none", "-r", "-f", "raw", "-c", "read -vP 0x32 16k 4k", device);
  await file.close();
});

loops.test("what reached the disk below another way is read when the device is opened anew", async () => {
  const storage = makeNodeStorage();
  const { device, root } = makeDevice(storage);
  const kept = await storage.openFile(device, "read", DEVICE);
  await readAll(kept);
  writeFileSync(`${root}/volume`, pattern(DEVICE_BYTES, 77), { flag: "r+" });
  const anew = await storage.openFile(device, "read", DEVICE);
  expect(Buffer.compare(await readAll(anew), pattern(DEVICE_BYTES, 77))).toBe(0);
  await Promise.all([kept.close(), anew.close()]);
});

loops.test(
  "a device is the same one by another node, attached anew, and not when another is attached",
  async () => {
    const storage = makeNodeStorage();
    const { device, root } = makeDevice(storage);
    const first = await storage.stat(device);
    const [major = "", minor = ""] = readFileSync(`/sys/class/block/${device.slice(5)}/dev`, "utf8").split(
      ":",
    );
    command("mknod", `${root}/node`, "b", major, minor.trim());
    const byNode = await storage.stat(`${root}/node`);
    expect([byNode?.inode, byNode?.fileSystemId]).toEqual([first?.inode, first?.fileSystemId]);
    detachLoop(device);
    const again = await storage.stat(attachLoop(`${root}/volume`));
    expect(again).toMatchObject({ inode: first?.inode, fileSystem: "0", fileSystemId: first?.fileSystemId });
    expect(again?.mountId).not.toBe(first?.mountId);
    copyFileSync(`${root}/volume`, `${root}/other`);
    const other = await storage.stat(attachLoop(`${root}/other`));
    expect(other?.inode).not.toBe(first?.inode);
  },
);

loops.test(
  "a device that is mounted, swap, or has partitions is read, and refused by name for writing",
  async () => {
    const storage = makeNodeStorage();
    const root = makeFolder("on a disk");
    const device = attachLoop(`${root}/volume`, 8 * 2 ** 20);
    const refusal = async (): Promise<string> => {
      await (await storage.openFile(device, "read", DEVICE)).close();
      const failure = await failureOf(() => storage.openFile(device, "write", DEVICE));
      expect(failure.code).toBe("E_REFUSED");
      return failure.message;
    };
    command("mkfs.ext4", "-q", device);
    mkdirSync(`${root}/mount point`);
    command("mount", device, `${root}/mount point`);
    try {
      expect(await refusal()).toBe(`'${device}' is not written to: it is mounted at '${root}/mount point'`);
    } finally {
      command("umount", `${root}/mount point`);
    }
    await (await storage.openFile(device, "write", DEVICE)).close();
    writeFileSync(device, partitionTable(), { flag: "r+" });
    command("partx", "--add", device);
    try {
      expect(await refusal()).toBe(`'${device}' is not written to: it has partitions (${device.slice(5)}p1)`);
    } finally {
      command("partx", "--delete", device);
    }
  },
);

loops.test("a device that somebody has opened exclusively is refused for writing", async () => {
  const storage = makeNodeStorage();
  const { device } = makeDevice(storage);
  const script =
    "import os,sys; os.open(sys.argv[1], os.O_RDWR | os.O_EXCL); print('open', flush=True); sys.stdin.read()";
  const holder = spawn("python3", ["-c", script, device], { stdio: ["pipe", "pipe", "inherit"] });
  try {
    await once(holder.stdout, "data");
    const failure = await failureOf(() => storage.openFile(device, "write", DEVICE));
    expect(failure.message).toBe(`'${device}' is not written to: a program or the kernel has it to itself`);
  } finally {
    holder.stdin.end();
    await once(holder, "exit");
  }
});

loops.test(
  "a guest that has the device by another node, where no lock is seen, is found all the same",
  async () => {
    const storage = makeNodeStorage();
    const { device, root } = makeDevice(storage);
    // As libvirt makes it, in a /dev that it mounts for the guest alone.
    const node = makeNode(device, path.basename(root));
    const guest = spawn("qemu-io", ["-f", "raw", node], { stdio: ["pipe", "pipe", "inherit"] });
    try {
      guest.stdin.write("read 0 512\n");
      await once(guest.stdout, "data");
      const file = await storage.openFile(device, "read", DEVICE);
      const failure = await failureOf(() =>
        acquireImageLocks(storage, [{ file, role: "reader" }], NO_WAITING),
      );
      expect(failure.code).toBe("E_LOCKED");
      expect(failure.message).toContain(`pid ${guest.pid} (qemu-io)`);
      await file.close();
    } finally {
      guest.stdin.end("quit\n");
      await once(guest, "exit");
    }
  },
);

loops.test(
  "another that waits for the device, and has it open for writing by the same node, is no writer",
  async () => {
    const storage = makeNodeStorage();
    const { device, root } = makeDevice(storage);
    const node = makeNode(device, path.basename(root));
    const waitsBy = async (name: string): Promise<() => Promise<void>> => {
      const words = [...sourceProgram("wait-for-device"), name];
      const child = spawn(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] });
      await once(child.stdout, "data");
      return async () => {
        child.kill();
        await once(child, "exit");
      };
    };
    const file = await storage.openFile(device, "write", DEVICE);
    const lock = async () => await acquireImageLocks(storage, [{ file, role: "writer" }], NO_WAITING);
    const endFirst = await waitsBy(device);
    (await lock()).release();
    // By another node nothing is seen of the locks that are held here.
    const endSecond = await waitsBy(node);
    expect((await failureOf(lock)).code).toBe("E_LOCKED");
    await endSecond();
    (await lock()).release();
    await endFirst();
    await file.close();
  },
);

loops.test("QEMU and imgtx keep each other off a device by QEMU's locks", async () => {
  const storage = makeNodeStorage();
  const { device } = makeDevice(storage);
  const file = await storage.openFile(device, "write", DEVICE);
  const locks = await acquireImageLocks(storage, [{ file, role: "writer" }], NO_WAITING);
  const refused = spawnSync("qemu-io", ["-f", "raw", "-c", "write 0 512", device], { encoding: "utf8" });
  expect(refused.stderr).toContain('Failed to get "write" lock');
  locks.release();
  await file.close();
});
