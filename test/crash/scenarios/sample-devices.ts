// Disks for the scenarios of the registry, and short ways to write their steps.

import { posix } from "node:path";
import type { ChangingFormat } from "../judges/observation.ts";
import {
  sampleDataFile,
  sampleQcow2,
  sampleRaw,
  type SampleImage,
  withLongHeader,
} from "../../helpers/sample-image.ts";
import type { Step } from "../subject.ts";

export interface SampleFile {
  /** Below the scenario's root. */
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly mode?: number;
  /** A block device that is full of them. On the simulated disk alone. */
  readonly isDevice?: boolean;
}

export interface Scenario {
  readonly name: string;
  readonly files: () => readonly SampleFile[];
  readonly prepare: readonly Step[];
  readonly steps: readonly Step[];
  readonly studied?: readonly number[];
  /** Whether there is no workspace at first: until one is made, recovery finds nothing to work on. */
  readonly startsWithout?: boolean;
  /** Whether steps are of several transactions, of which a crash may take back one and leave another. */
  readonly mixes?: boolean;
  /**
   * Images that are there before the first step and that steps write to, with their formats: below the root. They
   * are told by their guest's content, not by their bytes.
   */
  readonly changing?: Readonly<Record<string, ChangingFormat>>;
  /** Environment variables of its commands. */
  readonly env?: Readonly<Record<string, string>>;
  /** The command that recovers, where that is another one than `recover`. */
  readonly recover?: readonly string[];
  /** Whether `npm test` runs a part of it; torture runs all of every scenario. */
  readonly inSlice?: boolean;
}

export const WORKSPACE = "ws";
const KIB = 1024;

/** A device of the samples: the image, what lies below it, and its overlay's path for the steps. */
export interface SampleDevice {
  readonly name: string;
  readonly image: string;
  readonly format: "qcow2" | "raw";
  readonly files: () => readonly SampleFile[];
}

export const SMALL = { virtualSizeBytes: 192 * KIB } as const;

export function qcow2(
  path: string,
  image: Omit<SampleImage, "virtualSizeBytes"> & Partial<Pick<SampleImage, "virtualSizeBytes">>,
): SampleFile {
  return { path, bytes: sampleQcow2({ ...SMALL, ...image }), mode: 0o640 };
}

/** One of each kind: a chain, a raw disk, one in another folder, an old version, a raw base. */
export const DEVICES: readonly SampleDevice[] = [
  {
    name: "vda",
    image: "a.qcow2",
    format: "qcow2",
    files: () => [
      qcow2("ws/golden.qcow2", { dataClusters: [0, 3, 40], seed: 1 }),
      qcow2("ws/a.qcow2", {
        dataClusters: [3, 7],
        zeroClusters: [0],
        seed: 2,
        backing: { name: "golden.qcow2", format: "qcow2" },
      }),
    ],
  },
  {
    name: "vdb",
    image: "b.raw",
    format: "raw",
    files: () => [{ path: "ws/b.raw", bytes: sampleRaw(64 * KIB, 3), mode: 0o600 }],
  },
  {
    name: "vdc",
    image: "../images/c.qcow2",
    format: "qcow2",
    files: () => [qcow2("images/c.qcow2", { dataClusters: [1, 9, 300], seed: 4, clusterBits: 9 })],
  },
  {
    name: "vdd",
    image: "d.qcow2",
    format: "qcow2",
    files: () => [qcow2("ws/d.qcow2", { dataClusters: [2], seed: 5, version: 2 })],
  },
  {
    name: "vde",
    image: "e.qcow2",
    format: "qcow2",
    files: () => [
      { path: "ws/e-base.raw", bytes: sampleRaw(192 * KIB, 6) },
      qcow2("ws/e.qcow2", { dataClusters: [0], seed: 7, backing: { name: "e-base.raw", format: "raw" } }),
    ],
  },
];

/**
 * A device whose header has no feature name table, and ends right in front of a sector boundary: so a fence is
 * written across it, and may tear.
 */
export const TORN: SampleDevice = {
  name: "vdt",
  image: "t.qcow2",
  format: "qcow2",
  files: () => [
    { path: "ws/t.qcow2", bytes: withLongHeader(sampleQcow2({ ...SMALL, dataClusters: [0, 5], seed: 8 })) },
  ],
};

/**
 * One of each layout that tables and counts can have: small and large clusters, the old version, extended entries, a
 * data file. onGolden: they stand on `ws/golden.qcow2`.
 */
function layoutDevices(onGolden: boolean): readonly SampleDevice[] {
  const images = [
    ["vdc", "../images/c.qcow2", { dataClusters: [1, 9, 300], seed: 4, clusterBits: 9 }],
    ["vdd", "d.qcow2", { dataClusters: [2], seed: 5, version: 2 }],
    ["vdl", "l.qcow2", { dataClusters: [1], zeroClusters: [2], seed: 8, clusterBits: 14, extendedL2: true }],
    ["vdm", "big.qcow2", { dataClusters: [0], seed: 9, clusterBits: 21, virtualSizeBytes: 4096 * KIB }],
    ["vdf", "f.qcow2", { dataClusters: [1, 3], seed: 10, dataFileName: "f.data" }],
  ] as const;
  return images.map(([name, image, options]) => {
    const golden = image.startsWith("..") ? "../ws/golden.qcow2" : "golden.qcow2";
    const backing = { name: golden, format: "qcow2" };
    const sample = { ...SMALL, ...options, ...(onGolden && { backing }) };
    const data = { path: "ws/f.data", bytes: sampleDataFile(sample), mode: 0o640 };
    const files = () => [
      qcow2(posix.join(WORKSPACE, image), sample),
      ...("dataFileName" in options ? [data] : []),
    ];
    return { name, image, format: "qcow2", files };
  });
}

export const LAYOUTS = layoutDevices(false);
export const LAYOUTS_ON_GOLDEN = layoutDevices(true);

/** Files that no command has any business with, named as traps. */
const BYSTANDERS: readonly SampleFile[] = [
  { path: "ws/notes.txt", bytes: Buffer.from("keep me\n") },
  { path: "ws/.imgtx-not-ours", bytes: Buffer.from("not a staging file\n") },
  { path: "images/a1.qcow2.bak", bytes: Buffer.from("a backup\n") },
];

export function filesOf(
  devices: readonly SampleDevice[],
  more: readonly SampleFile[] = [],
): () => SampleFile[] {
  return () => [...devices.flatMap((device) => device.files()), ...BYSTANDERS, ...more];
}

export function step(line: string, exit = 0): Step {
  return { argv: line.split(" "), exit };
}

/** As a guest would write to a qcow2 image: all of OTHER. */
export function write(image: string): Step {
  return step(`img convert -n -f qcow2 -O qcow2 other.qcow2 ${image}`);
}

/** A commit that lifts fences which it raised before its mark. */
export const COMMIT_UNDER_FENCES: Step = { ...step("txn commit"), orRefused: true };

/** A step that takes back what was done. */
export function back(line: string): Step {
  return { ...step(line), failsForward: true };
}

export function addAll(devices: readonly SampleDevice[]): Step[] {
  return devices.map(({ name, image, format }) => step(`device add ${name} ${image} --format ${format}`));
}

const OVERLAYS: Readonly<Record<string, string>> = {
  vda: "a1.qcow2",
  vdb: "b1.qcow2",
  vdc: "../images/c1.qcow2",
  vdd: "d1.qcow2",
  vde: "e1.qcow2",
};

export function group(devices: readonly SampleDevice[]): string {
  return `snapshot-group ${devices.map(({ name }) => `${name}=${OVERLAYS[name]}`).join(" ")}`;
}

/** What the second device, mirrors and overlays of it are called. */
const ON_THE_OTHER = /(?<![\w./-])(b\d?\.(?:raw|qcow2)|n\.raw|m\.qcow2)/g;

/** The scenario with the second device and all mirrors in the other folder, which may be another disk. */
export function onTwoDisks(scenario: Scenario): Scenario {
  const moved = (text: string) => text.replaceAll(ON_THE_OTHER, "../images/$1");
  const movedStep = (one: Step) => ({ ...one, argv: one.argv.map(moved) });
  const movedPath = (path: string) => posix.join(WORKSPACE, moved(posix.relative(WORKSPACE, path)));
  return {
    ...scenario,
    prepare: scenario.prepare.map(movedStep),
    steps: scenario.steps.map(movedStep),
    files: () =>
      scenario.files().map(({ path, bytes, ...rest }) => ({
        ...rest,
        path: movedPath(path),
        bytes: path === `${WORKSPACE}/batch` ? Buffer.from(moved(Buffer.from(bytes).toString())) : bytes,
      })),
    ...(scenario.changing && {
      changing: Object.fromEntries(
        Object.entries(scenario.changing).map(([path, format]) => [movedPath(path), format]),
      ),
    }),
  };
}

export const ONE = DEVICES.slice(0, 1);
export const TWO = DEVICES.slice(0, 2);

export function onTwo(name: string, steps: readonly Step[], changes: Partial<Scenario> = {}): Scenario {
  return { name, files: filesOf(TWO), prepare: addAll(TWO), steps, ...changes };
}

/** A whole image that the device vda can be pointed to. */
export const OTHER = qcow2("ws/other.qcow2", { dataClusters: [8], seed: 11 });

/** With a cluster at its end that is counted, and that nothing uses. */
export function withLeak(file: SampleFile): SampleFile {
  const clusterBytes = 2 ** Buffer.from(file.bytes).readUInt32BE(20);
  const bytes = Buffer.concat([file.bytes, Buffer.alloc(clusterBytes)]);
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
  bytes.writeUInt16BE(1, block + (file.bytes.length / clusterBytes) * 2);
  return { ...file, bytes };
}
