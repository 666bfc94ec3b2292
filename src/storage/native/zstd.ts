// zstd: Node's own where it has it (22.15 or newer), else the system's libzstd through koffi. Node 20 has none. A cluster of
// 64 KiB takes 46 us on the thread pool with several at once, 108 us one after another.
//
// Invariants
// - Loaded at the first call that needs it. Where neither is there, the error says what to install.
// - The work is done on a thread pool, so that several calls run at once; a context of libzstd is used by one
//   call at a time.
// - decompress writes into memory of the size that it was told, whatever the frame claims.

import { createRequire } from "node:module";
import { ImgtxError } from "../../errors/index.ts";
import { loadForeign } from "./foreign.ts";
import type { NativeFunction, NativePointer } from "./foreign-library.ts";
import { callInPool } from "./native-pool.ts";

export interface ZstdCodec {
  /** Unpacks one whole frame. E_CORRUPT, without a place, where it is damaged, or holds not exactly sizeBytes. */
  decompress(frame: Uint8Array, sizeBytes: number): Promise<Uint8Array>;
  /** Packs into one frame, at the default level. */
  compress(source: Uint8Array): Promise<Uint8Array>;
}

let loaded: ZstdCodec | undefined;

/** E_UNSUPPORTED where there is no zstd. */
export function loadZstd(): ZstdCodec {
  // Not imported: Node takes two milliseconds to load its zlib, and few commands want it.
  loaded ??= fromNode(createRequire(import.meta.url)("node:zlib") as object) ?? loadLibzstd();
  return loaded;
}

type Done = (error: Error | null, result: Uint8Array) => void;

interface NodeZstd {
  zstdDecompress(
    source: Uint8Array,
    options: { maxOutputLength: number; chunkSize: number },
    done: Done,
  ): void;
  zstdCompress(source: Uint8Array, done: Done): void;
}

/** The codec of a node:zlib; undefined where it has no zstd. */
export function fromNode(library: object): ZstdCodec | undefined {
  if (!("zstdDecompress" in library && "zstdCompress" in library)) return undefined;
  const native = library as NodeZstd;
  return {
    async decompress(frame, sizeBytes) {
      // One chunk with room after it, so that the end is seen without a second one.
      const options = { maxOutputLength: Math.max(sizeBytes, 1), chunkSize: sizeBytes + 64 };
      const result = await new Promise<Uint8Array>((resolve, reject) => {
        native.zstdDecompress(frame, options, (error, value) => {
          if (error === null) resolve(value);
          else reject(undecodable(error.message, error));
        });
      });
      if (result.length !== sizeBytes) throw undecodable(`it holds ${result.length} bytes`);
      return result;
    },
    compress: (source) =>
      new Promise((resolve, reject) => {
        native.zstdCompress(source, (error, value) => {
          if (error === null) resolve(value);
          else reject(error);
        });
      }),
  };
}

const LIBRARY = "libzstd.so.1";
const DEFAULT_LEVEL = 3;

/** The codec of the system's library. */
export function loadLibzstd(library: string = LIBRARY): ZstdCodec {
  const native = bindLibrary(library);
  const decompressContexts: NativePointer[] = [];
  const compressContexts: NativePointer[] = [];
  const targets: Uint8Array[] = [];
  return {
    async decompress(frame, sizeBytes) {
      const target = new Uint8Array(sizeBytes);
      const context = decompressContexts.pop() ?? create(native.createDecompressContext);
      const values = [context, target, sizeBytes, frame, frame.length];
      const size = await callInPool(native.decompress, values);
      decompressContexts.push(context);
      if (native.isError(size) !== 0) throw undecodable(String(native.errorName(size)));
      if (Number(size) !== sizeBytes) throw undecodable(`it holds ${String(size)} bytes`);
      return target;
    },
    async compress(source) {
      const target = takeTarget(targets, Number(native.compressBound(source.length)));
      const context = compressContexts.pop() ?? create(native.createCompressContext);
      const values = [context, target, target.length, source, source.length, DEFAULT_LEVEL];
      const size = await callInPool(native.compress, values);
      compressContexts.push(context);
      if (native.isError(size) !== 0) {
        throw new ImgtxError("E_FAILED", `zstd could not compress: ${String(native.errorName(size))}`);
      }
      const packed = target.slice(0, Number(size));
      targets.push(target);
      return packed;
    },
  };
}

/** One of an earlier call's, which are all of one size where the clusters are. */
function takeTarget(targets: Uint8Array[], sizeBytes: number): Uint8Array {
  const target = targets.pop();
  return target?.length === sizeBytes ? target : new Uint8Array(sizeBytes);
}

interface LibraryFunctions {
  readonly createDecompressContext: NativeFunction;
  readonly createCompressContext: NativeFunction;
  readonly decompress: NativeFunction;
  readonly compress: NativeFunction;
  readonly compressBound: NativeFunction;
  readonly isError: NativeFunction;
  readonly errorName: NativeFunction;
}

function bindLibrary(name: string): LibraryFunctions {
  try {
    const library = loadForeign().load(name);
    return {
      createDecompressContext: library.func("void *ZSTD_createDCtx()"),
      createCompressContext: library.func("void *ZSTD_createCCtx()"),
      decompress: library.func(
        "size_t ZSTD_decompressDCtx(void *context, void *target, size_t capacity, void *source, size_t size)",
      ),
      compress: library.func(
        "size_t ZSTD_compressCCtx(void *context, void *target, size_t capacity, void *source, size_t size, int level)",
      ),
      compressBound: library.func("size_t ZSTD_compressBound(size_t size)"),
      isError: library.func("unsigned int ZSTD_isError(size_t code)"),
      errorName: library.func("const char *ZSTD_getErrorName(size_t code)"),
    };
  } catch (cause) {
    throw new ImgtxError("E_UNSUPPORTED", "zstd, which the image is compressed with, is not available here", {
      hint: "install libzstd (`apt install libzstd1`, `dnf install libzstd`), or run imgtx with Node 22.15 or newer",
      cause,
    });
  }
}

function create(make: NativeFunction): NativePointer {
  const context = make();
  if (typeof context === "bigint" && context !== 0n) return context;
  throw new ImgtxError("E_FAILED", "zstd could not get memory for a context");
}

function undecodable(detail: string, cause?: unknown): ImgtxError {
  return new ImgtxError("E_CORRUPT", `no sound zstd frame: ${detail}`, { cause });
}
