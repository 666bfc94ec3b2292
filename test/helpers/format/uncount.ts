// An image whose refcounts lie: a cluster that the guest has, and that nobody counts.

import { readFileSync, writeFileSync } from "node:fs";

/** Takes the count of the cluster that guest offset 160k is in. */
export function uncountLast(image: string): void {
  const bytes = readFileSync(image);
  const clusterBytes = 2 ** bytes.readUInt32BE(20);
  const l1 = Number(bytes.readBigUInt64BE(40));
  const l2 = Number(bytes.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n);
  const entry = bytes.readBigUInt64BE(l2 + Math.floor((160 * 1024) / clusterBytes) * 8);
  const cluster = Number(entry & 0x00ff_ffff_ffff_fe00n) / clusterBytes;
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
  bytes.writeUInt16BE(0, block + cluster * 2);
  writeFileSync(image, bytes);
}
