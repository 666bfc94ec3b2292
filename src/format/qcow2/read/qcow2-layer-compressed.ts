// Reads compressed clusters of one image, several at once.
//
// Invariants
// - Memory is bounded: one read two reads of at most GROUP_BYTES at a time, and a few clusters of each.
// - A cluster of which only a part was asked for is kept, since the next read most likely wants another part.

import { alignDown } from "../../../units/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { loadDeflateUnpacker, loadZstd } from "../../../storage/index.ts";
import { forEachLimited } from "../../read/limited.ts";
import { inflateCluster, unzstdCluster } from "../codec/compressed-cluster.ts";
import { damageHint, type Qcow2Link } from "../../chain/chain-link.ts";
import type { Run } from "../../read/run-list.ts";

/** Compressed clusters that lie together in the file are read together, up to this. */
const GROUP_BYTES = 1024 * 1024;
/** Keeps Node's pool of four threads busy. */
const UNPACKED_AT_ONCE = 8;

/** Consecutive runs whose compressed data is one stretch of the file. */
interface Group {
  readonly runs: Run[];
  readonly start: number;
  end: number;
}

interface Piece {
  readonly run: Run;
  readonly stored: Uint8Array;
}

export class CompressedReader {
  readonly #link: Qcow2Link;
  readonly #clusterBytes: number;
  #kept: { readonly guestStart: number; readonly cluster: Uint8Array } | undefined;

  constructor(link: Qcow2Link) {
    this.#link = link;
    this.#clusterBytes = link.header.clusterSizeBytes;
  }

  async read(runs: readonly Run[], target: Uint8Array, targetStart: number): Promise<void> {
    // Two: the next group is read while the one before is unpacked.
    await forEachLimited(joinRuns(runs), 2, async (group) => {
      const bytes = new Uint8Array(group.end - group.start);
      const count = await this.#link.file.read(bytes, group.start);
      const pieces = group.runs.map((run) => {
        const from = (run.hostOffset ?? 0) - group.start;
        return {
          run,
          stored: bytes.subarray(Math.min(from, count), Math.min(from + run.storedBytes, count)),
        };
      });
      await forEachLimited(pieces, UNPACKED_AT_ONCE, (piece) => this.#unpack(piece, target, targetStart));
    });
  }

  async #unpack(piece: Piece, target: Uint8Array, targetStart: number): Promise<void> {
    const { run } = piece;
    const place = target.subarray(run.start - targetStart, run.start - targetStart + run.lengthBytes);
    if (run.lengthBytes === this.#clusterBytes) return this.#decompressInto(place, piece);
    const guestStart = alignDown(run.start, this.#clusterBytes);
    let kept = this.#kept;
    if (kept?.guestStart !== guestStart) {
      kept = { guestStart, cluster: new Uint8Array(this.#clusterBytes) };
      await this.#decompressInto(kept.cluster, piece);
      this.#kept = kept;
    }
    const from = run.start - guestStart;
    place.set(kept.cluster.subarray(from, from + run.lengthBytes));
  }

  /** Fills target, which is one cluster long. */
  async #decompressInto(target: Uint8Array, { run, stored }: Piece): Promise<void> {
    try {
      if (this.#link.header.compressionType !== 0) {
        target.set(await unzstdCluster(stored, target.length, loadZstd()));
      } else if ((await loadDeflateUnpacker()?.unpackInto(target, stored)) !== true) {
        // Without libdeflate, or after its no: zlib has the last word, and says what is wrong.
        target.set(await inflateCluster(stored, target.length));
      }
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      const place = run.hostOffset === undefined ? {} : { offset: run.hostOffset };
      throw error.with({
        image: this.#link.path,
        hint: damageHint(this.#link.path),
        ...place,
      });
    }
  }
}

/** Groups runs that follow each other in the file; in the last sector of one may lie the start of the next. */
function joinRuns(runs: readonly Run[]): Group[] {
  const groups: Group[] = [];
  let last: Group | undefined;
  for (const run of runs) {
    const start = run.hostOffset ?? 0;
    const end = start + run.storedBytes;
    if (last !== undefined && start >= last.start && start <= last.end && end - last.start <= GROUP_BYTES) {
      last.runs.push(run);
      last.end = Math.max(last.end, end);
    } else {
      last = { runs: [run], start, end };
      groups.push(last);
    }
  }
  return groups;
}
