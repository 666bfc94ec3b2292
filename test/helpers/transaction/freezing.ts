// Short ways to freeze devices in tests, and to look at what that did to their images.

import { readFileSync, utimesSync } from "node:fs";
import { beforeItsName, takeFingerprint } from "../../../src/format/index.ts";
import { type Call, killAt } from "../storage/watched-storage.ts";
import { untilSettled } from "../until-settled.ts";
import { makeWorkbench, type Workbench } from "./workbench.ts";

/** When the images of makeOldBench were modified. */
export const T0 = new Date("2020-02-02T02:02:02.345Z");

export function isFenced(file: string): boolean {
  const head = readFileSync(file);
  return head.readUInt32BE(0) === 0x514649fb && head.readUInt32BE(4) === 3 && (head[72]! & 0x40) !== 0;
}

export async function fingerprintOf(bench: Workbench, name: string): Promise<object> {
  const file = await bench.storage.openFile(bench.at(name), "read");
  const fingerprint = await takeFingerprint(file, true);
  await file.close();
  // Its change time moves with each write, also with one that is taken back.
  return beforeItsName(fingerprint);
}

export async function makeOldBench(): Promise<Workbench> {
  const bench = await makeWorkbench();
  const files = ["a.qcow2", "c.qcow2", "b.raw", "base.raw"].map((name) => bench.at(name));
  for (const file of files) utimesSync(file, T0, T0);
  await untilSettled(...files);
  return bench;
}

export function freeze(devices: readonly string[], strict = false) {
  return { kind: "freeze" as const, devices, strict };
}

export function unfreeze(devices: readonly string[], force = false) {
  return { kind: "unfreeze" as const, devices, force };
}

/** The same workspace for a freeze that dies when its fences are written, and no commit mark is. */
export function dieFencing(bench: Workbench): Workbench {
  const isCut = ({ name, purpose }: Call): boolean => name === "file.flush" && purpose === "fence that stays";
  return bench.through(killAt(bench.storage, isCut));
}

export async function frozen(bench: Workbench): Promise<string[]> {
  return (await bench.devices()).filter((device) => device.frozen).map(({ name }) => name);
}
