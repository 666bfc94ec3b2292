// Gives a large write its blocks before it is made. ext4 else accounts for every 4 KiB of a new range by itself,
// which takes almost as long as copying the data; one call for the whole range takes next to nothing.
//
// Invariants
// - Nobody sees a difference: the range is written next, the size stays, and what is not written after all
//   (a full disk, a crash) reads as zeros.
// - A hint: what fails here fails again, and is reported, in the write.
// - Only where it is known to help. XFS reserves whole ranges by itself, Btrfs would no longer compress the
//   range, and tmpfs would fill it with zeros first.

import { statfsSync } from "node:fs";
import type { ByteRange } from "../storage.ts";
import type { SystemCalls } from "../native/system-calls.ts";
import { quietly } from "../quietly.ts";

const EXT4_MAGIC = 0xef53;
const RESERVED_BYTES_MIN = 512 * 1024;
const BLOCK_BYTES = 4096;

export class BlockReserver {
  /** Undefined: not looked at yet. */
  #helps: boolean | undefined;

  reserve(native: SystemCalls | undefined, descriptor: number, range: ByteRange): void {
    if (native === undefined || range.lengthBytes < RESERVED_BYTES_MIN) return;
    if (range.start % BLOCK_BYTES !== 0 || range.lengthBytes % BLOCK_BYTES !== 0) return;
    this.#helps ??= isOnExt4(descriptor);
    // Without extents, as ext3 made its files, there is no reserving.
    if (this.#helps) this.#helps = native.reserve(descriptor, range);
  }
}

function isOnExt4(descriptor: number): boolean {
  // Without /proc it can't be told, and nothing is lost but speed.
  return quietly(() => statfsSync(`/proc/self/fd/${descriptor}`).type === EXT4_MAGIC, false);
}
