// Raw deflate streams of a known size, by the system's libdeflate where it is installed: it takes half the time
// of zlib, with nothing to set up for each stream. Where it is not, node:zlib does the work. Only for reading: what it
// packs needs a window of 32 KiB, and QEMU reads with one of 4.
//
// Invariants
// - Loaded at the first call that needs it. Its calls run on Node's thread pool, each with a context of its own.
// - It writes into memory of the size that it was told, whatever the stream holds.

import { loadForeign } from "./foreign.ts";
import type { NativeFunction, NativePointer } from "./foreign-library.ts";
import { callInPool } from "./native-pool.ts";

export interface DeflateUnpacker {
  /**
   * Fills target from the stream at the start of stored; what follows the stream is ignored. False where it is
   * damaged, or does not give exactly as many bytes; target then holds anything.
   */
  unpackInto(target: Uint8Array, stored: Uint8Array): Promise<boolean>;
}

const LIBRARY = "libdeflate.so.0";
const SUCCESS = 0;

let loaded: { readonly unpacker: DeflateUnpacker | undefined } | undefined;

/** Undefined where the system has no libdeflate. */
export function loadDeflateUnpacker(): DeflateUnpacker | undefined {
  loaded ??= { unpacker: loadLibdeflate() };
  return loaded.unpacker;
}

export function loadLibdeflate(name: string = LIBRARY): DeflateUnpacker | undefined {
  const library = openLibrary(name);
  if (library === undefined) return undefined;
  const { createContext, unpack } = library;
  const idle: NativePointer[] = [];
  return {
    async unpackInto(target, stored) {
      const context = idle.pop() ?? createContext();
      if (context === undefined) return false;
      // No place for the actual size: then the library itself insists on all of target.
      const values = [context, stored, stored.length, target, target.length, null];
      const result = await callInPool(unpack, values);
      idle.push(context);
      return result === SUCCESS;
    },
  };
}

function openLibrary(
  name: string,
): { createContext: () => NativePointer | undefined; unpack: NativeFunction } | undefined {
  try {
    const library = loadForeign().load(name);
    const create = library.func("void *libdeflate_alloc_decompressor()");
    return {
      createContext() {
        const context = create();
        return typeof context === "bigint" && context !== 0n ? context : undefined;
      },
      unpack: library.func(
        "int libdeflate_deflate_decompress(void *context, void *source, size_t size, void *target, size_t capacity, void *actual)",
      ),
    };
  } catch {
    // Not installed, or no koffi: nothing is lost but speed.
    return undefined;
  }
}
