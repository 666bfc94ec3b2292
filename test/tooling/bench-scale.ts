// How commands fare in a workspace of the largest size: 500 devices on chains of 100 images, with 5,000 snapshots and as
// many generations, against the same devices with 10 of them.
//
// The images are made from one pattern, and the workspace by the code that writes tables, records and the history, in this
// process: by commands it would take hours. IMGTX_BENCH_SCALE says other numbers: DEVICES,CHAIN,SNAPSHOTS.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { ChainEntry, DeviceEntry, DeviceTable } from "../../src/device/index.ts";
import {
  lockWorkspace,
  sealDevice,
  withSnapshot,
  workspaceAt,
  writeNextGeneration,
} from "../../src/device/index.ts";
import { closeGeneration, historyPath } from "../../src/device/history/history.ts";
import { encodeSnapshot } from "../../src/device/table/snapshot-record.ts";
import { openChain } from "../../src/format/index.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { chainEntriesOf } from "../../src/transaction/actions/plan/chain-entry.ts";
import { readTable } from "../../src/device/index.ts";
import { type Bench, inTurns, runImgtx } from "./bench-tools.ts";

const FEW = 10;
const ROUNDS = 5;

interface Size {
  readonly devices: number;
  readonly chain: number;
  readonly snapshots: number;
}

export async function benchScale({ scratch, report }: Bench): Promise<void> {
  const [devices = 500, chain = 100, snapshots = 5000] = (process.env["IMGTX_BENCH_SCALE"] ?? "")
    .split(",")
    .flatMap((word) => (word === "" ? [] : Number(word)));
  const few = `${scratch}/few`;
  const many = `${scratch}/many`;
  for (const [folder, count] of [
    [few, FEW],
    [many, snapshots],
  ] as const) {
    const start = performance.now();
    const bytes = await makeWorkspace(folder, { devices, chain, snapshots }, count);
    const seconds = Math.round((performance.now() - start) / 1000);
    console.log(
      `${count} snapshots of ${devices} devices on chains of ${chain}: made in ${seconds} s; ${bytes}`,
    );
  }
  const commands = [
    ["snapshot-list", "-n", "20"],
    ["history", "-n", "20"],
    ["device", "list"],
    ["status"],
    ["tree", "d000"],
    ["snapshot-group", "d000", "d001", "d002"],
  ];
  for (const words of commands) {
    const [ours, theirs] = inTurns(ROUNDS, [() => runImgtx(many, ...words), () => runImgtx(few, ...words)]);
    const what = `${words.join(" ")}, ${snapshots} snapshots`;
    report(what, ours, `with ${FEW} of them`, theirs, ours / theirs, { atMost: 2 });
  }
}

/** With the newest of the snapshots, so many. Returns what its own folder takes. */
async function makeWorkspace(root: string, size: Size, count: number): Promise<string> {
  mkdirSync(root);
  runImgtx(root, "init");
  const storage = makeNodeStorage();
  const workspace = await workspaceAt(storage, root);
  const chains = await makeChains(root, size);
  const sealed = planSeals(size);
  const first = size.snapshots - count;
  const present = await readTable(workspace);
  // Each device on the layer that was its active one before the first of the snapshots.
  const depths = chains.map((_, device) => sealed[device]!.filter((number) => number <= first).length);
  const devices = chains.map((chain, device) =>
    entryOf(device, chain.slice(chain.length - 1 - depths[device]!)),
  );
  let table: DeviceTable = { ...present, generation: present.generation + 1, summary: "laid out", devices };
  let stored: DeviceTable = table;
  let wholeBytes = 0;
  const own = `${root}/.imgtx`;
  const written = { snapshots: 0, history: 0 };
  mkdirSync(`${own}/snapshots`, { recursive: true });
  for (let number = first + 1; number <= size.snapshots; number += 1) {
    const moving = sealed.flatMap((numbers, device) => (numbers.includes(number) ? [device] : []));
    const next = takeSnapshot(table, { moving, chains, depths });
    const { bytes, sinceWhole } = closeGeneration(
      workspace,
      { present: stored, closing: table, next: next.table },
      wholeBytes,
    );
    writeFileSync(historyPath(workspace, table.generation), bytes);
    // Where it is whole it is about what the table takes, which the engine goes by.
    if (sinceWhole === 0) wholeBytes = bytes.length;
    written.history += bytes.length;
    const record = encodeSnapshot(root, next.snapshot);
    const name = `${String(next.snapshot.number).padStart(6, "0")}-${next.table.generation}.json`;
    writeFileSync(`${own}/snapshots/${name}`, record);
    written.snapshots += record.length;
    table = next.table;
    stored = { ...table, sinceWhole };
  }
  const lock = await lockWorkspace(workspace, { waitMs: 0, onWait: () => undefined });
  try {
    const last = { ...table, generation: table.generation + 1, summary: "laid out" };
    await writeNextGeneration(workspace, table, last);
  } finally {
    await lock.close();
  }
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const { size: tableBytes } = statSync(`${own}/table.json`);
  return `table ${mib(tableBytes)}, history ${mib(written.history)}, records ${mib(written.snapshots)}`;
}

/** Overlays over one image, the uppermost first, each with a relative name of the same length for what it stands on. */
async function makeChains(root: string, { devices, chain }: Size): Promise<ChainEntry[][]> {
  const storage = makeNodeStorage();
  const name = (device: number, depth: number) => `${nameOf(device)}-${String(depth).padStart(3, "0")}.qcow2`;
  const path = (device: number, depth: number) => `${root}/${nameOf(device)}/${name(device, depth)}`;
  const pattern = `${root}/${nameOf(0)}/pattern.qcow2`;
  const options = ["-f", "qcow2", "-o", "cluster_size=512"];
  mkdirSync(dirname(path(0, 0)));
  execFileSync("qemu-img", ["create", "-q", ...options, path(0, 0), "1M"]);
  execFileSync("qemu-img", ["create", "-q", ...options, "-b", name(0, 0), "-F", "qcow2", pattern]);
  const base = readFileSync(path(0, 0));
  const overlay = readFileSync(pattern);
  const at = overlay.indexOf(name(0, 0));
  const chains: ChainEntry[][] = [];
  for (let device = 0; device < devices; device += 1) {
    mkdirSync(dirname(path(device, 0)), { recursive: true });
    writeFileSync(path(device, 0), base);
    for (let depth = 1; depth < chain; depth += 1) {
      overlay.write(name(device, depth - 1), at);
      writeFileSync(path(device, depth), overlay);
    }
    const gate = { workspaceRoot: root, currentFolder: root, allowPaths: [root] };
    const open = await openChain(storage, path(device, chain - 1), { format: "qcow2", gate });
    chains.push(chainEntriesOf(open));
    await open.close();
  }
  return chains;
}

/** By device, the numbers of the snapshots that seal its layers, the lowest first: all layers of all devices in turn. */
function planSeals({ devices, chain, snapshots }: Size): number[][] {
  const perSnapshot = (devices * (chain - 1)) / snapshots;
  return Array.from({ length: devices }, (_, device) =>
    Array.from(
      { length: chain - 1 },
      (_layer, depth) => Math.floor((depth * devices + device) / perSnapshot) + 1,
    ),
  );
}

function nameOf(device: number): string {
  return `d${String(device).padStart(3, "0")}`;
}

function entryOf(device: number, [top, ...below]: readonly ChainEntry[]): DeviceEntry {
  if (!top) throw new Error("a chain has an image");
  return {
    name: nameOf(device),
    image: top.image,
    format: top.format,
    virtualSizeBytes: 2 ** 20,
    chain: [{ ...top, name: null }, ...below],
    mirror: null,
    frozen: null,
    made: top.image,
  };
}

/** These devices go to their next layers. */
function takeSnapshot(
  table: DeviceTable,
  {
    moving,
    chains,
    depths,
  }: {
    readonly moving: readonly number[];
    readonly chains: readonly ChainEntry[][];
    readonly depths: number[];
  },
) {
  const devices = [...table.devices];
  const sealed = moving.map((device) => sealDevice(devices[device]!));
  for (const device of moving) {
    const chain = chains[device]!;
    const before = devices[device]!;
    depths[device]! += 1;
    const [top, below] = chain.slice(chain.length - 1 - depths[device]!);
    const under = { ...before.chain[0]!, name: below!.name };
    devices[device] = entryOf(device, [top!, under, ...before.chain.slice(1)]);
  }
  const names = moving.map(nameOf);
  const next = {
    ...table,
    generation: table.generation + 1,
    committed: new Date().toISOString(),
    transaction: `bench${table.generation}`,
    summary: `snapshot-group ${names.join(" ")}`,
    devices,
  };
  const { table: taken, number } = withSnapshot(next, {
    name: null,
    message: null,
    created: next.committed,
    devices: sealed,
  });
  const { unwritten: snapshot, ...ref } = taken.snapshots.at(-1)!;
  if (!snapshot) throw new Error(`snapshot ${number} was taken`);
  return { snapshot, table: { ...taken, snapshots: [...taken.snapshots.slice(0, -1), ref] } };
}
