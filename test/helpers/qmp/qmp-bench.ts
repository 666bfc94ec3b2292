// The same transaction on two copies of the same images: by a qemu-storage-daemon in one folder, by
// `imgtx txn run` in another. Afterwards the two folders can be compared.

import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import path from "node:path";
import { runCli } from "../cli/harness.ts";
import { runWell } from "../qemu-programs.ts";
import { makeFolder } from "../temporary-folder.ts";
import { type QmpAnswer, StorageDaemon } from "./storage-daemon.ts";

interface Device {
  readonly name: string;
  readonly file: string;
  readonly format: "qcow2" | "raw";
  /** An overlay that waits to be put on a device: QEMU opens it without what is below it. */
  readonly isOverlay?: true;
}

export interface Scene {
  readonly devices: readonly Device[];
  /** Makes the images, with commands of qemu-img and qemu-io in the current folder. */
  readonly images: readonly string[];
}

/** The commands, with every file in the folder that they run in. */
export type Commands = (at: (file: string) => string) => object;

export interface Side {
  readonly folder: string;
  readonly answer: QmpAnswer;
  /** Without the workspace's own. */
  readonly files: readonly string[];
}

export interface Trial {
  readonly qemu: Side;
  readonly imgtx: Side & {
    readonly status: number;
    /** The active layer of each device, by its name in the folder. */
    readonly active: Readonly<Record<string, string>>;
  };
}

export const TWO_DISKS: Scene = {
  devices: [
    { name: "vda", file: "a.qcow2", format: "qcow2" },
    { name: "vdb", file: "b.raw", format: "raw" },
  ],
  images: [
    "qemu-img create -q -f raw base.raw 4M",
    "qemu-io -f raw base.raw -c 'write -q -P 1 0 2M'",
    "qemu-img create -q -f qcow2 -F raw -b base.raw a.qcow2",
    "qemu-io -f qcow2 a.qcow2 -c 'write -q -P 2 64k 64k' -c 'write -q -z 1M 128k'",
    "qemu-img create -q -f raw b.raw 3M",
    "qemu-io -f raw b.raw -c 'write -q -P 3 1M 512k'",
  ],
};

export async function tryBoth(scene: Scene, commands: Commands): Promise<Trial> {
  const root = makeFolder();
  const [qemu, imgtx] = [`${root}/qemu`, `${root}/imgtx`];
  // Made twice: a copy has its holes elsewhere, and qemu-img maps them.
  for (const folder of [qemu, imgtx]) {
    mkdirSync(folder);
    for (const line of scene.images) runWell("sh", "-ec", `cd '${folder}'; ${line}`);
  }
  return {
    qemu: await tryQemu(qemu, scene, commands),
    imgtx: await tryImgtx(imgtx, scene, commands),
  };
}

async function tryQemu(folder: string, scene: Scene, commands: Commands): Promise<Side> {
  const daemon = await StorageDaemon.start(folder);
  try {
    for (const { name, file, format, isOverlay } of scene.devices) {
      await daemon.open(name, `${folder}/${file}`, format, isOverlay ? { backing: null } : {});
    }
    const answer = await daemon.ask(commands((file) => `${folder}/${file}`));
    await daemon.settleJobs();
    return { folder, answer, files: listFiles(folder) };
  } finally {
    await daemon.stop();
  }
}

async function tryImgtx(folder: string, scene: Scene, commands: Commands): Promise<Trial["imgtx"]> {
  const run = async (argv: readonly string[], stdin = "") => await runCli(argv, { cwd: folder, stdin });
  for (const { name, file, format, isOverlay } of scene.devices) {
    // An overlay stands in the table by no name of its own: it stands on an active layer.
    if (isOverlay) continue;
    const added = await run(["device", "add", name, file, "--format", format]);
    if (added.status !== 0) throw new Error(added.stderr);
  }
  const batch = JSON.stringify(commands((file) => `${folder}/${file}`));
  const { status, stdout, stderr } = await run(["txn", "run", "-"], batch);
  if (stderr.includes("bug in imgtx")) throw new Error(stderr);
  const listed = JSON.parse((await run(["device", "list", "--json"])).stdout) as {
    devices: { name: string; image: string }[];
  };
  const active = listed.devices.map(({ name, image }) => [name, path.relative(folder, image)] as const);
  return {
    folder,
    answer: JSON.parse(stdout) as QmpAnswer,
    files: listFiles(folder),
    status,
    active: Object.fromEntries(active),
  };
}

function listFiles(folder: string): string[] {
  return readdirSync(folder)
    .filter((name) => name !== ".imgtx" && name !== "devices")
    .sort();
}

/** Each layer's name, format, size and backing file, active layer first, as qemu-img sees them. */
export function chainOf({ folder }: Side, file: string): object[] {
  const text = runWell("qemu-img", "info", "--backing-chain", "--output=json", `${folder}/${file}`);
  const layers = JSON.parse(text.replaceAll(`${folder}/`, "")) as Record<string, unknown>[];
  return layers.map((layer) => ({
    filename: layer["filename"],
    format: layer["format"],
    "virtual-size": layer["virtual-size"],
    "backing-filename": layer["backing-filename"],
    "full-backing-filename": layer["full-backing-filename"],
    "backing-filename-format": layer["backing-filename-format"],
  }));
}

/** What a guest reads where, and from which layer, without where that layer has it. */
export function mapOf({ folder }: Side, file: string, format: string): object[] {
  const text = runWell("qemu-img", "map", "-f", format, "--output=json", `${folder}/${file}`);
  return (JSON.parse(text) as Record<string, unknown>[]).map(({ start, length, depth, zero, data }) => ({
    start,
    length,
    depth,
    zero,
    data,
  }));
}

/** The status of `qemu-img compare`: 0 where a guest reads the same. */
export function compareImages({ qemu, imgtx }: Trial, file: string, format: string): number | null {
  return spawnSync("qemu-img", [
    "compare",
    "-f",
    format,
    "-F",
    format,
    `${qemu.folder}/${file}`,
    `${imgtx.folder}/${file}`,
  ]).status;
}

/** Writes into an active layer on both sides, as the guest would next. */
export function writeBoth({ qemu, imgtx }: Trial, file: string, command: string): void {
  for (const { folder } of [qemu, imgtx])
    runWell("qemu-io", "-f", "qcow2", "-c", command, `${folder}/${file}`);
}

/** Whether qemu-img finds nothing to object to. */
export function isSound({ folder }: Side, file: string): boolean {
  return spawnSync("qemu-img", ["check", "-q", "-f", "qcow2", `${folder}/${file}`]).status === 0;
}
