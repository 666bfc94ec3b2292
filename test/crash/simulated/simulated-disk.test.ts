// The simulated disk must do what a real one does: both pass the same suite.

import { describeStorage } from "../../storage/conformance.ts";
import { Tree } from "./disk-tree.ts";
import { SimulatedMachine } from "./simulated-disk.ts";
import { startProcess } from "./simulated-process.ts";

describeStorage("the simulated disk", async () => {
  const storage = startProcess(new SimulatedMachine({ durable: new Tree() }));
  await storage.makeFolder("/disks", 0o755);
  return { storage, root: "/disks" };
});
