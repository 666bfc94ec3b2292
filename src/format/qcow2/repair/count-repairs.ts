// Refcounts that are to be set right: up to millions, and more than one list of them at a time, so they are kept in few
// bytes. Six a count in most images: only a piece that has larger ones takes more.

/** A refcount that is not what it should be. */
export interface CountRepair {
  readonly cluster: number;
  /** Beyond 2^53 the nearest double. */
  readonly before: number;
  readonly after: number;
}

type Way = "up" | "down";

interface Piece {
  readonly clusters: Uint32Array;
  before: Uint8Array | Float64Array;
  after: Uint8Array | Float64Array;
}

const PIECE_COUNTS = 8192;
const BYTE_MAX = 0xff;

/** By ascending cluster, as they are added. */
export class CountRepairs {
  readonly #pieces: Piece[] = [];
  readonly #lengths = { up: 0, down: 0 };

  get length(): number {
    return this.#lengths.up + this.#lengths.down;
  }

  add({ cluster, before, after }: CountRepair): void {
    const at = this.length % PIECE_COUNTS;
    if (at === 0) this.#pieces.push(newPiece());
    const piece = this.#pieces.at(-1);
    if (piece === undefined) throw new RangeError("no piece to add a count to");
    if (before > BYTE_MAX) piece.before = widened(piece.before);
    if (after > BYTE_MAX) piece.after = widened(piece.after);
    piece.clusters[at] = cluster;
    piece.before[at] = before;
    piece.after[at] = after;
    this.#lengths[wayOf({ before, after })] += 1;
  }

  *[Symbol.iterator](): Generator<CountRepair> {
    let left = this.length;
    for (const { clusters, before, after } of this.#pieces) {
      const end = Math.min(left, PIECE_COUNTS);
      for (let at = 0; at < end; at += 1) {
        yield { cluster: clusters[at] ?? 0, before: before[at] ?? 0, after: after[at] ?? 0 };
      }
      left -= end;
    }
  }

  /** Those that rise, or those that fall. */
  select(way: Way): CountRepairs {
    if (this.length === this.#lengths[way]) return this;
    const selected = new CountRepairs();
    for (const one of this) if (wayOf(one) === way) selected.add(one);
    return selected;
  }

  /** How many of them rise, or fall. */
  count(way: Way): number {
    return this.#lengths[way];
  }
}

function wayOf({ before, after }: Pick<CountRepair, "before" | "after">): Way {
  return before < after ? "up" : "down";
}

function newPiece(): Piece {
  return {
    clusters: new Uint32Array(PIECE_COUNTS),
    before: new Uint8Array(PIECE_COUNTS),
    after: new Uint8Array(PIECE_COUNTS),
  };
}

function widened(counts: Piece["before"]): Float64Array {
  return counts instanceof Float64Array ? counts : Float64Array.from(counts);
}
