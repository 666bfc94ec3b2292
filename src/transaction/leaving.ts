// Which images a commit moves devices away from, or has them frozen at.

import { type DeviceTable, findDevice } from "../device/index.ts";

/** An image, or its data file, that a device leaves, puts a layer on, or is frozen at. */
export interface LeftImage {
  readonly device: string;
  readonly image: string;
}

/** Where the devices' active layers are now that will not be theirs, or not to write to, in the next table. */
export function imagesLeft(table: DeviceTable, next: DeviceTable, devices: readonly string[]): LeftImage[] {
  return devices.flatMap((device) => {
    const [before, after] = [findDevice(table, device), findDevice(next, device)];
    const [top] = before?.chain ?? [];
    if (!before || !after || !top) return [];
    const isFrozen = after.frozen !== null && before.frozen === null;
    if (before.image === after.image && !isFrozen) return [];
    const images = top.dataFile ? [top.image, top.dataFile.image] : [top.image];
    return images.map((image) => ({ device, image }));
  });
}
