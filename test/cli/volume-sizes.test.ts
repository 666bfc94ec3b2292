// Images in volumes that are made larger and smaller behind the workspace's back.

import { expect } from "vitest";
import { runCli, type Result } from "../helpers/cli/harness.ts";
import { attachLoop } from "../helpers/loop-device.ts";
import { command } from "../helpers/loop-disk.ts";
import { oracle } from "../helpers/oracles.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const loops = oracle("root", "loops", "qemu-img", "qemu-io");
const SIZE_BYTES = 8 * 2 ** 20;

interface Bench {
  readonly root: string;
  readonly device: string;
  readonly run: (line: string) => Promise<Result>;
  /** The same, which must succeed. */
  readonly must: (line: string) => Promise<Result>;
}

/** A workspace, and a qcow2 image on a device with 7s in its second MiB. */
async function makeBench(): Promise<Bench> {
  const root = makeFolder("on a disk");
  const device = attachLoop(`${root}/volume`, SIZE_BYTES);
  command("qemu-img", "create", "-q", "-f", "qcow2", device, "16M");
  command("qemu-io", "-c", "write -P 7 1M 1M", device);
  const run = async (line: string): Promise<Result> => await runCli(line.split(" "), { cwd: root });
  const must = async (line: string): Promise<Result> => {
    const result = await run(line);
    expect(result, line).toMatchObject({ status: 0 });
    return result;
  };
  await must("init");
  return { root, device, run, must };
}

loops.test(
  "a sealed image whose volume was made larger is what it was, and can be gone back to",
  async () => {
    const { root, device, run, must } = await makeBench();
    await must(`device add vda ${device} --allow-devices`);
    await must("snapshot vda a.qcow2 --name one");
    command("truncate", "-s", String(2 * SIZE_BYTES), `${root}/volume`);
    command("losetup", "--set-capacity", device);
    expect((await must("snapshot-show one")).stdout).toContain("intact");
    await must("status --check");
    await must("rollback vda=b.qcow2 --to one");
    command("qemu-io", "-c", "read -P 7 1M 1M", `${root}/b.qcow2`);
    // A raw disk ends with it.
    const raw = attachLoop(`${root}/raw`, SIZE_BYTES);
    await must(`device add vdb ${raw} --format raw`);
    await must("snapshot vdb c.qcow2 --name two");
    command("truncate", "-s", String(2 * SIZE_BYTES), `${root}/raw`);
    command("losetup", "--set-capacity", raw);
    expect((await run("rollback vdb=d.qcow2 --to two")).stderr).toContain("is not what it was");
  },
);

loops.test(
  "a snapshot is refused over an image whose volume was made smaller than it, and status says so",
  async () => {
    const { root, device, run, must } = await makeBench();
    command("qemu-io", "-c", "write -P 8 4M 2M", device);
    await must(`device add vda ${device} --allow-devices`);
    const resize = (sizeBytes: number): void => {
      command("truncate", "-s", String(sizeBytes), `${root}/volume`);
      command("losetup", "--set-capacity", device);
    };
    // What it has no image in it may lose.
    resize(5 * 2 ** 20);
    await must("snapshot vda a.qcow2 --name one");
    await must("merge vda");
    await must("status --check");
    command("cp", `${root}/volume`, `${root}/whole`);
    resize(2 ** 20);
    const refused = await run("snapshot vda b.qcow2");
    expect([refused.status, refused.stderr]).toEqual([15, expect.stringContaining("made smaller than it")]);
    const { stdout, status } = await run("status --check");
    expect([status, stdout]).toEqual([1, expect.stringContaining("made smaller than it")]);
    command("cp", `${root}/whole`, `${root}/volume`);
    resize(5 * 2 ** 20);
    await must("snapshot vda b.qcow2");
    await must("status --check");
  },
);
