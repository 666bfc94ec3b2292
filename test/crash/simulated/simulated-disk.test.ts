// The simulated disk must do what a real one does: both pass the same suite.

import { test } from "vitest";
import { pattern } from "../../storage/conformance/subject.ts";
import { DEVICE_BYTES, describeDevices } from "../../storage/conformance/devices.ts";
import { describeStorage } from "../../storage/conformance.ts";
import { Tree } from "./disk-tree.ts";
import { SimulatedMachine } from "./simulated-disk.ts";
import { startProcess } from "./simulated-process.ts";

describeStorage("the simulated disk", async () => {
  const storage = startProcess(new SimulatedMachine({ durable: new Tree() }));
  await storage.makeFolder("/disks", 0o755);
  return { storage, root: "/disks" };
});

describeDevices("the simulated machine", test, async () => {
  const durable = new Tree();
  durable.attachDevice("/volume", pattern(DEVICE_BYTES));
  const storage = startProcess(new SimulatedMachine({ durable }));
  await storage.makeFolder("/disks", 0o755);
  return { storage, root: "/disks", device: "/volume" };
});
