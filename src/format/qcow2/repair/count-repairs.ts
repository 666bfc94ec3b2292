// Refcounts that are to be set right: up to millions, so they are kept in few bytes.

/** A refcount that is not what it should be. */
export interface CountRepair {
  readonly cluster: number;
  /** Beyond 2^53 the nearest double. */
  readonly before: number;
  readonly after: number;
}

/** By ascending cluster, as they are added. */
export class CountRepairs {
  #clusters = new Uint32Array(64);
  #before = new Float64Array(64);
  #after = new Uint32Array(64);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  add({ cluster, before, after }: CountRepair): void {
    const at = this.#length;
    if (at === this.#clusters.length) {
      this.#clusters = grown(this.#clusters, new Uint32Array(2 * at));
      this.#before = grown(this.#before, new Float64Array(2 * at));
      this.#after = grown(this.#after, new Uint32Array(2 * at));
    }
    this.#clusters[at] = cluster;
    this.#before[at] = before;
    this.#after[at] = after;
    this.#length += 1;
  }

  *[Symbol.iterator](): Generator<CountRepair> {
    for (let at = 0; at < this.#length; at += 1) {
      const [cluster = 0, before = 0, after = 0] = [this.#clusters[at], this.#before[at], this.#after[at]];
      yield { cluster, before, after };
    }
  }

  /** Those that rise, or those that fall. */
  select(way: "up" | "down"): CountRepairs {
    const selected = new CountRepairs();
    for (const one of this) if (one.before < one.after === (way === "up")) selected.add(one);
    return selected;
  }
}

function grown<Numbers extends Uint32Array | Float64Array>(old: Numbers, larger: Numbers): Numbers {
  larger.set(old);
  return larger;
}
