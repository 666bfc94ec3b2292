// Each action on one, two and five devices at once, whose images have the layouts that change what is written: clusters
// of 512 bytes and of 2 MiB, version 2, extended L2 entries, a data file. Torture runs all of them on both rigs, and
// `npm test` a few; `coverage.test.ts` sees that none is missing.

import { posix } from "node:path";
import { ELSEWHERE } from "./relocate-scenarios.ts";
import {
  addAll,
  DEVICES,
  filesOf,
  LAYOUTS,
  LAYOUTS_ON_GOLDEN,
  OTHER,
  qcow2,
  type SampleDevice,
  type SampleFile,
  type Scenario,
  step,
  write,
  withLeak,
} from "./sample-devices.ts";

const CHANGING = {
  "ws/a.qcow2": "qcow2",
  "images/c.qcow2": "qcow2",
  "ws/d.qcow2": "qcow2",
  "ws/l.qcow2": "qcow2",
  "ws/big.qcow2": "qcow2",
  "ws/f.qcow2": "qcow2",
} as const;

type Devices = readonly SampleDevice[];

const ONE = DEVICES.slice(0, 1);
/** Version 2 has no bitmaps. */
const VERSION_3 = [...LAYOUTS.filter(({ name }) => name !== "vdd"), ...ONE];
/** What has a data file can't have internal snapshots. */
const INSIDE = [...LAYOUTS.filter(({ name }) => name !== "vdf"), ...ONE];

const COUNTS = [1, 2, 5];

interface Batches {
  readonly name: string;
  /** Five of them. */
  readonly devices?: Devices;
  /** The lines of each step, which is a batch, and so a transaction. */
  readonly steps: (devices: Devices) => readonly (readonly string[])[];
  readonly prepare?: (devices: Devices) => Scenario["prepare"];
  readonly more?: (devices: Devices) => readonly SampleFile[];
  /** Endings of files beside each image that are written to as well. */
  readonly changesBeside?: readonly string[];
  readonly isLeaking?: boolean;
  readonly startsWithout?: boolean;
}

function scenariosOf({ name, devices = LAYOUTS, steps, ...how }: Batches): Scenario[] {
  return COUNTS.map((count) => {
    const chosen = devices.slice(0, count);
    const lines = steps(chosen);
    const batches = lines.map((batch, index) => ({
      path: `ws/batch${index}`,
      bytes: Buffer.from(`${batch.join("\n")}\n`),
    }));
    const files = filesOf(chosen, [...batches, ...(how.more?.(chosen) ?? [])]);
    const damaged = (file: SampleFile) => (Object.hasOwn(CHANGING, file.path) ? withLeak(file) : file);
    return {
      name: `${name} of ${count} layouts`,
      files: how.isLeaking ? () => files().map(damaged) : files,
      prepare: how.prepare?.(chosen) ?? addAll(chosen),
      changing: { ...CHANGING, ...besides(chosen, how.changesBeside ?? []) },
      steps: lines.map((_, index) => step(`txn run batch${index}`)),
      ...(how.startsWithout && { startsWithout: true }),
    };
  });
}

const names = (devices: Devices): string => devices.map(({ name }) => name).join(" ");

/** A file beside the device's own image. */
const beside = ({ name, image }: SampleDevice, ending: string): string =>
  image.replace(/[^/]*$/, `${name}-${ending}`);

const besides = (devices: Devices, endings: readonly string[]): Record<string, "qcow2"> =>
  Object.fromEntries(
    devices.flatMap((device) =>
      endings.map((ending) => [posix.join("ws", beside(device, ending)), "qcow2" as const]),
    ),
  );

const pairs = (devices: Devices, ending: string): string =>
  devices.map((device) => `${device.name}=${beside(device, ending)}`).join(" ");

const onOverlays = (devices: Devices) => [
  ...addAll(devices),
  step(`snapshot-group ${pairs(devices, "1.qcow2")}`),
];

/** What QEMU's create takes for an image of each layout. */
const OPTIONS: Readonly<Record<string, string>> = {
  vdc: "cluster_size=512",
  vdd: "compat=0.10",
  vdl: "extended_l2=on",
  vdm: "cluster_size=2M",
  vdf: "data_file=f-s.data",
};

/** A mirror of each active layer alone, and an overlay of somebody else on what lies below that, of its layout. */
const withMirrorsAndSiblings = (devices: Devices, below: (device: SampleDevice) => string) => [
  step(`mirror ${pairs(devices, "m.qcow2")} --sync top`),
  ...devices.flatMap((device) => [
    step(
      `img create -q -f qcow2 -o ${OPTIONS[device.name] ?? "compat=1.1"} -F qcow2 -b ${below(device)} ${beside(device, "s.qcow2")}`,
    ),
    write(beside(device, "s.qcow2")),
  ]),
];

/** Images that stay what they are, or that are made. */
const PLAIN: readonly Batches[] = [
  {
    name: "snapshots",
    steps: (devices) => [
      devices.map((device) => `snapshot ${device.name} ${beside(device, "1.qcow2")}`),
      [`snapshot-group ${pairs(devices, "2.qcow2")}`],
    ],
  },
  {
    name: "reopen",
    // Of another size than one of them.
    steps: (devices) => [
      devices.map((device) => `reopen ${device.name} ${beside(device, "other.qcow2")} --force`),
    ],
    more: (devices) =>
      devices.map((device) =>
        qcow2(posix.join("ws", beside(device, "other.qcow2")), { dataClusters: [8], seed: 11 }),
      ),
  },
  {
    name: "freeze and unfreeze",
    steps: (devices) => [[`freeze ${names(devices)}`], [`unfreeze ${names(devices)}`]],
  },
  {
    name: "mirror",
    steps: (devices) => [
      [`mirror ${pairs(devices, "m.qcow2")}`],
      devices.map(({ name }) => `mirror --cancel ${name}`),
    ],
  },
  {
    name: "migrate",
    steps: (devices) => [
      devices.map(
        (device) =>
          `migrate ${device.name} ${beside(device, "copy.qcow2")} --new-source ${beside(device, "new.qcow2")}`,
      ),
    ],
  },
  {
    name: "relocate",
    prepare: onOverlays,
    more: () => [ELSEWHERE, { ...ELSEWHERE, path: "newer/notes.txt" }],
    steps: (devices) => [[`relocate ${names(devices)} ../new`], [`relocate ${names(devices)} ../newer`]],
  },
  { name: "rollback", prepare: onOverlays, steps: () => [["rollback"]] },
  { name: "undo and redo", prepare: onOverlays, steps: () => [["undo"], ["redo"]] },
  {
    name: "add, trust, rename and remove devices",
    prepare: () => [step("init")],
    startsWithout: true,
    more: () => [{ path: "images/program", bytes: new Uint8Array(1), mode: 0o755 }],
    steps: (devices) => [
      addAll(devices).map(({ argv }) => argv.join(" ")),
      devices.map(({ name }) => `device trust ${name} ../images`),
      devices.map(({ name }) => `device provision ${name} ../images/program`),
      devices.map(({ name }) => `device rename ${name} ${name}-new`),
      devices.map(({ name }) => `device rename ${name}-new ${name}`),
      devices.map(({ name }) => `device remove ${name}`),
    ],
  },
];

/** Images that are changed in place. */
const IN_PLACE: readonly Batches[] = [
  {
    name: "resize",
    steps: (devices) => [
      devices.map(({ name }) => `resize ${name} +2M`),
      devices.map(({ name }) => `resize ${name} 64k --shrink --force`),
    ],
  },
  {
    name: "internal snapshots",
    devices: INSIDE,
    steps: (devices) =>
      ["create", "apply", "delete"].map((verb) => [`internal-snapshot ${verb} ${names(devices)} one`]),
  },
  {
    name: "bitmaps",
    devices: VERSION_3,
    steps: (devices) => [
      [`bitmap add ${names(devices)} b0`, `bitmap add ${names(devices)} b1 --disabled`],
      [
        `bitmap clear ${names(devices)} b0`,
        `bitmap disable ${names(devices)} b0`,
        `bitmap enable ${names(devices)} b1`,
        `bitmap merge --from b0 ${names(devices)} b1`,
      ],
      [`bitmap remove ${names(devices)} b0`],
    ],
  },
  {
    name: "merge",
    prepare: (devices) => [
      ...onOverlays(devices),
      ...devices.map((device) => write(beside(device, "1.qcow2"))),
    ],
    more: () => [OTHER],
    steps: (devices) => [[`merge ${names(devices)}`]],
  },
  {
    name: "merge past mirrors and siblings",
    prepare: (devices) => [
      ...onOverlays(devices),
      ...devices.map((device) => write(beside(device, "1.qcow2"))),
      ...withMirrorsAndSiblings(devices, ({ image }) => posix.basename(image)),
    ],
    more: () => [OTHER],
    changesBeside: ["m.qcow2", "s.qcow2"],
    steps: (devices) => [[`merge ${names(devices)} --rebase-siblings`]],
  },
  {
    name: "snapshot-delete",
    prepare: (devices) => [...onOverlays(devices), step("snapshot-group --all")],
    steps: () => [["snapshot-delete 1"], ["snapshot-delete 2"]],
  },
  {
    name: "pull and rebase",
    devices: LAYOUTS_ON_GOLDEN,
    more: () => [
      qcow2("ws/golden.qcow2", { dataClusters: [0, 3, 40], seed: 1 }),
      qcow2("ws/golden2.qcow2", { dataClusters: [3, 20], seed: 12 }),
    ],
    steps: (devices) => [
      devices.map(({ name }) => `rebase ${name} --onto golden2.qcow2`),
      [`pull ${names(devices)}`],
    ],
  },
  {
    name: "pull and rebase beside mirrors and siblings",
    devices: LAYOUTS_ON_GOLDEN,
    prepare: (devices) => [
      ...addAll(devices),
      ...withMirrorsAndSiblings(devices, ({ image }) => posix.basename(image)),
    ],
    more: () => [
      OTHER,
      qcow2("ws/golden.qcow2", { dataClusters: [0, 3, 40], seed: 1 }),
      qcow2("ws/golden2.qcow2", { dataClusters: [3, 20], seed: 12 }),
    ],
    changesBeside: ["m.qcow2"],
    steps: (devices) => [
      devices.map(({ name }) => `rebase ${name} --onto golden2.qcow2`),
      [`mirror ${pairs(devices, "m.qcow2")}`],
      [`pull ${names(devices)}`],
    ],
  },
  {
    name: "amend",
    steps: (devices) => [[`amend ${names(devices)} -o compat=1.1,lazy_refcounts=on`]],
  },
  {
    name: "repair",
    isLeaking: true,
    steps: (devices) => [
      devices.map(({ name }) => `repair ${name} --keep-undo ${name}.undo`),
      devices.map(({ name }) => `repair ${name} --undo ${name}.undo`),
      [`repair ${names(devices)}`],
    ],
  },
];

export const LAYOUT_SCENARIOS: readonly Scenario[] = [...PLAIN, ...IN_PLACE].flatMap(scenariosOf);
