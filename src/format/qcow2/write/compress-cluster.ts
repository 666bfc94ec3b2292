// Packs one cluster of guest data as QEMU does: raw deflate with a window of 4 KiB. (The other method is one
// zstd frame at the default level: storage's codec.)
//
// Invariant: pure. Node's thread pool does the work, so that several clusters are packed at once.

import { deflateRaw } from "node:zlib";

const WINDOW_BITS = 12;
const MEMORY_LEVEL = 9;

export async function deflateCluster(cluster: Uint8Array): Promise<Uint8Array> {
  const options = { windowBits: WINDOW_BITS, memLevel: MEMORY_LEVEL, chunkSize: cluster.length };
  return new Promise((resolve, reject) => {
    deflateRaw(cluster, options, (error, packed) => {
      if (error === null) resolve(packed);
      else reject(error);
    });
  });
}
