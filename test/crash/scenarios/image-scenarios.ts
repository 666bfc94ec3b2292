// Scenarios of `imgtx img` on images that are in no workspace: the journal lies beside the image, and the next command
// that opens it recovers. Its statuses are qemu-img's, so what fails ends with 1, whatever stands.

import { qcow2, type SampleFile, type Scenario, SMALL, step, withLeak } from "./sample-devices.ts";
import { sampleDataFile, sampleQcow2, sampleRaw } from "../../helpers/sample-image.ts";

const KIB = 1024;

interface Subject {
  readonly image: string;
  readonly format: "qcow2" | "raw";
  readonly files: () => readonly SampleFile[];
}

/** The image lies in another folder than its commands run in, which name it IMAGE. */
function onImage(name: string, { files, image, format }: Subject, commands: readonly string[]): Scenario {
  const path = `../images/${image}`;
  return {
    name,
    files: () => [...files(), { path: "images/.imgtx-not-ours", bytes: Buffer.from("not a staging file\n") }],
    prepare: [],
    startsWithout: true,
    changing: { [`images/${image}`]: format },
    steps: commands.map((command) => step(command.replace("IMAGE", path))),
    recover: ["img", "info", "-f", format, path],
  };
}

const overlayOn = (virtualSizeBytes: number): SampleFile[] => [
  qcow2("images/base.qcow2", { dataClusters: [0, 3, 40], seed: 1, virtualSizeBytes }),
  qcow2("images/a.qcow2", {
    dataClusters: [3, 7],
    seed: 2,
    backing: { name: "base.qcow2", format: "qcow2" },
  }),
];

/** Its data file has something where the overlay maps nothing as well, which nobody may touch. */
function overlayWithData(): SampleFile[] {
  const [base, overlay] = [overlayOn(192 * KIB)[0], { dataClusters: [3, 7], seed: 2 }];
  const bytes = sampleDataFile({ ...SMALL, ...overlay });
  bytes.fill(7, 32 * KIB, 40 * KIB);
  return [
    ...(base ? [base] : []),
    qcow2("images/a.qcow2", {
      ...overlay,
      backing: { name: "base.qcow2", format: "qcow2" },
      // Looked for from where the command runs, as QEMU does.
      dataFileName: "../images/a.data",
    }),
    { path: "images/a.data", bytes, mode: 0o640 },
  ];
}

const OVERLAY = {
  image: "a.qcow2",
  format: "qcow2",
  files: () => overlayOn(384 * KIB),
} as const satisfies Subject;

const OLD = {
  image: "d.qcow2",
  format: "qcow2",
  files: () => [qcow2("images/d.qcow2", { dataClusters: [2], seed: 5, version: 2 })],
} as const satisfies Subject;

const LEAKING = {
  image: "d.qcow2",
  format: "qcow2",
  files: () => OLD.files().map(withLeak),
} as const satisfies Subject;

const RAW = {
  image: "b.raw",
  format: "raw",
  files: () => [{ path: "images/b.raw", bytes: sampleRaw(64 * KIB, 3), mode: 0o600 }],
} as const satisfies Subject;

/** Beside its node there is no place for a journal. */
const VOLUME = {
  image: "vol-a",
  format: "qcow2",
  files: () => {
    const bytes = new Uint8Array(256 * KIB).fill(0x5a);
    bytes.set(sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [3, 7], seed: 2 }));
    return [{ path: "images/vol-a", bytes, isDevice: true }];
  },
} as const satisfies Subject;

export const IMAGE_SCENARIOS: readonly Scenario[] = [
  {
    ...onImage("img resize and snapshot of a volume", VOLUME, [
      "img resize --allow-devices IMAGE 320k",
      "img snapshot --allow-devices -c one IMAGE",
    ]),
    recover: ["img", "info", "--allow-devices", "-f", "qcow2", "../images/vol-a"],
  },
  { ...onImage("img resize of an overlay", OVERLAY, ["img resize IMAGE 320k"]), inSlice: true },
  onImage("img resize of a raw image", RAW, [
    "img resize -f raw IMAGE +64k",
    "img resize -f raw --shrink IMAGE -96k",
  ]),
  {
    // It writes to the backing image, which the journal lies beside, and empties the overlay.
    ...onImage("img commit of an overlay", { ...OVERLAY, files: () => overlayOn(192 * KIB) }, [
      "img commit IMAGE",
    ]),
    changing: { "images/base.qcow2": "qcow2", "images/a.qcow2": "qcow2" },
    recover: ["img", "check", "../images/a.qcow2"],
  },
  {
    ...onImage("img commit of an overlay with a data file", { ...OVERLAY, files: overlayWithData }, [
      "img commit IMAGE",
    ]),
    changing: {
      "images/base.qcow2": "qcow2",
      "images/a.qcow2": "qcow2",
      "images/a.data": "raw",
    },
    recover: ["img", "check", "../images/a.qcow2"],
  },
  onImage("img rebase of an overlay onto nothing", OVERLAY, ["img rebase --backing= IMAGE"]),
  onImage("img check -r of an image with a leak, and amend", LEAKING, [
    "img check -r leaks IMAGE",
    "img amend -o refcount_bits=64,compat=1.1 IMAGE",
  ]),
  onImage("img snapshot of a version 2 image", OLD, [
    "img snapshot -c one IMAGE",
    "img snapshot -a one IMAGE",
  ]),
];
