// Scenarios whose images lie on block devices, for the simulated disk: there a device is a node that keeps its name and
// its size, and the judge sees each byte of it.

import { sampleQcow2, sampleRaw } from "../../helpers/sample-image.ts";
import { filesOf, type SampleFile, type Scenario, step, back } from "./sample-devices.ts";
import type { Step } from "../subject.ts";

const KIB = 1024;
const VOLUME_BYTES = 256 * KIB;

/** Full of what its last user left, after the image. */
function volume(path: string, image: Uint8Array): SampleFile {
  const bytes = new Uint8Array(VOLUME_BYTES).fill(0x5a);
  bytes.set(image);
  return { path, bytes, isDevice: true };
}

/** A qcow2 image that can have a fence, one that can't, and a raw disk. */
const VOLUMES: readonly SampleFile[] = [
  volume("images/vol-a", sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [3, 7], seed: 2 })),
  volume("images/vol-b", sampleRaw(VOLUME_BYTES, 3)),
  volume(
    "images/vol-c",
    sampleQcow2({ virtualSizeBytes: 192 * KIB, dataClusters: [2], seed: 5, version: 2 }),
  ),
];

const ADDED: readonly Step[] = [
  step("device add vda ../images/vol-a --format qcow2 --allow-devices"),
  step("device add vdb ../images/vol-b --format raw"),
  step("device add vdc ../images/vol-c --format qcow2"),
];

function onVolumes(name: string, steps: readonly Step[]): Scenario {
  return { name, files: filesOf([], VOLUMES), prepare: ADDED, steps };
}

export const DEVICE_SCENARIOS: readonly Scenario[] = [
  onVolumes("a group snapshot of three volumes, in files", [
    step("snapshot-group vda=a1.qcow2 vdb=b1.qcow2 vdc=c1.qcow2 --name one"),
  ]),
  onVolumes("a snapshot of a volume in a transaction, and back", [
    step("txn begin"),
    step("snapshot vda a1.qcow2"),
    back("txn abort"),
  ]),
  onVolumes("a volume left and come back to, by undo and redo", [
    step("snapshot vda a1.qcow2"),
    back("undo"),
    step("redo --force"),
  ]),
  onVolumes("a volume copied to a file, and left for it", [
    step("mirror vda m.qcow2"),
    step("reopen vda m.qcow2"),
  ]),
  onVolumes("a volume that a device is reopened to", [
    step("device remove vdc"),
    step("reopen vda ../images/vol-c --format qcow2"),
  ]),
];
