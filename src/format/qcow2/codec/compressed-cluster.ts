// Compressed clusters (qcow2 specification, "Compressed Clusters Descriptor"): one cluster of guest data each,
// as a raw deflate stream or a zstd frame, followed by whatever fills its last sector.
//
// Invariants
// - Pure. What comes out is one cluster, neither more nor less: output is bounded before memory is taken for
//   it, whatever the stream claims (CVE-2015-5162). QEMU takes the beginning of a longer stream.
// - Node's thread pool does the work, so that several clusters are decompressed at once.

import { ImgtxError } from "../../../errors/index.ts";

/** What unpacks zstd: the storage layer's codec. */
export interface ZstdUnpacker {
  /** One whole frame into a buffer of exactly this size. Rejects where it holds more or less. */
  decompress(frame: Uint8Array, sizeBytes: number): Promise<Uint8Array>;
}

/** E_CORRUPT, without a place, for a stream that is damaged or does not give exactly one cluster. */
export async function inflateCluster(stored: Uint8Array, clusterSizeBytes: number): Promise<Uint8Array> {
  let cluster: Uint8Array;
  try {
    cluster = await inflate(stored, clusterSizeBytes);
  } catch (cause) {
    throw undecodable("deflate", cause);
  }
  if (cluster.length === clusterSizeBytes) return cluster;
  throw undecodable("deflate", `it gives ${cluster.length} bytes of ${clusterSizeBytes}`);
}

export async function unzstdCluster(
  stored: Uint8Array,
  clusterSizeBytes: number,
  unpacker: ZstdUnpacker,
): Promise<Uint8Array> {
  const frame = stored.subarray(0, measureZstdFrame(stored));
  try {
    return await unpacker.decompress(frame, clusterSizeBytes);
  } catch (cause) {
    if (cause instanceof ImgtxError && cause.code !== "E_CORRUPT") throw cause;
    throw undecodable("zstd", cause);
  }
}

const ZSTD_MAGIC = 0xfd2fb528;
const BLOCK_HEADER_BYTES = 3;
const CHECKSUM_BYTES = 4;
const BLOCK_TYPE_RLE = 1;
const BLOCK_TYPE_RESERVED = 3;

/**
 * How many of the bytes are the zstd frame (RFC 8878, section 3.1.1): decompressors take what follows it for
 * a second frame, and fail. E_CORRUPT where the frame does not end within them.
 */
export function measureZstdFrame(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 6 || view.getUint32(0, true) !== ZSTD_MAGIC) throw undecodable("zstd", "no frame");
  const descriptor = view.getUint8(4);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const contentSizeFlag = descriptor >>> 6;
  const contentSizeBytes = contentSizeFlag === 0 ? (isSingleSegment ? 1 : 0) : 2 ** contentSizeFlag;
  const dictionaryFlag = descriptor & 3;
  const dictionaryBytes = dictionaryFlag === 3 ? 4 : dictionaryFlag;
  let at = 5 + (isSingleSegment ? 0 : 1) + dictionaryBytes + contentSizeBytes;
  for (let isLast = false; !isLast; ) {
    if (at + BLOCK_HEADER_BYTES > bytes.length) throw undecodable("zstd", "the frame does not end");
    const header = view.getUint16(at, true) + view.getUint8(at + 2) * 0x1_0000;
    const type = (header >>> 1) & 3;
    if (type === BLOCK_TYPE_RESERVED) throw undecodable("zstd", "a block of a reserved type");
    isLast = (header & 1) === 1;
    at += BLOCK_HEADER_BYTES + (type === BLOCK_TYPE_RLE ? 1 : header >>> 3);
  }
  if ((descriptor & 4) !== 0) at += CHECKSUM_BYTES;
  if (at > bytes.length) throw undecodable("zstd", "the frame does not end");
  return at;
}

// Loaded when it is first needed: it takes Node two milliseconds.
let zlib: typeof import("node:zlib") | undefined;

// Room for one byte more than a cluster, so that the end of the stream is seen without a second buffer, and a
// stream that goes on is too long at once. After the stream lies padding, which zlib leaves alone.
async function inflate(stored: Uint8Array, clusterSizeBytes: number): Promise<Uint8Array> {
  zlib ??= await import("node:zlib");
  const { inflateRaw, constants } = zlib;
  const options = {
    chunkSize: clusterSizeBytes + 64,
    maxOutputLength: clusterSizeBytes,
    finishFlush: constants.Z_SYNC_FLUSH,
  };
  return new Promise((resolve, reject) => {
    inflateRaw(stored, options, (error, cluster) => {
      if (error === null) resolve(cluster);
      else reject(error);
    });
  });
}

function undecodable(method: "deflate" | "zstd", cause: unknown): ImgtxError {
  const detail = typeof cause === "string" ? `: ${cause}` : "";
  return new ImgtxError("E_CORRUPT", `a compressed cluster is no sound ${method} stream${detail}`, {
    field: "l2_entry",
    cause: typeof cause === "string" ? undefined : cause,
  });
}
