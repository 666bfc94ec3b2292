// Which L2 tables an image has, and how many L1 entries lead to each: from the active layer and from all.
//
// Invariants
// - Internal snapshots share tables, so each table is read once, however many snapshots there are.
// - 16 bytes a table, in typed arrays: an L1 table may have four million entries.

const INITIAL_SLOTS = 1024;
/** Spreads multiples of the sector size over the slots (a prime near 2^32 divided by the golden ratio). */
const SPREAD = 2_654_435_761;

export class TableUses {
  // Offset plus one, so that 0 is a free slot.
  #keys = new Float64Array(INITIAL_SLOTS);
  #times = new Uint32Array(INITIAL_SLOTS);
  #activeTimes = new Uint32Array(INITIAL_SLOTS);
  #tables = 0;

  /** offset: a multiple of 512 bytes. */
  add(offset: number, times: number, activeTimes: number): void {
    if (this.#tables * 2 >= this.#keys.length) this.#grow();
    const slot = this.#findSlot(offset);
    if (this.#keys[slot] === 0) this.#tables += 1;
    this.#keys[slot] = offset + 1;
    this.#times[slot] = (this.#times[slot] ?? 0) + times;
    this.#activeTimes[slot] = (this.#activeTimes[slot] ?? 0) + activeTimes;
  }

  /** Ascending. */
  get offsets(): Float64Array {
    const offsets = new Float64Array(this.#tables);
    let listed = 0;
    for (const key of this.#keys) {
      if (key === 0) continue;
      offsets[listed] = key - 1;
      listed += 1;
    }
    return offsets.sort();
  }

  timesAt(offset: number): number {
    return this.#times[this.#findSlot(offset)] ?? 0;
  }

  activeTimesAt(offset: number): number {
    return this.#activeTimes[this.#findSlot(offset)] ?? 0;
  }

  #findSlot(offset: number): number {
    const mask = this.#keys.length - 1;
    const key = offset + 1;
    const sector = offset / 512;
    let slot = (Math.imul((sector % 2 ** 32) ^ Math.floor(sector / 2 ** 32), SPREAD) >>> 8) & mask;
    while (this.#keys[slot] !== 0 && this.#keys[slot] !== key) slot = (slot + 1) & mask;
    return slot;
  }

  #grow(): void {
    const [keys, times, activeTimes] = [this.#keys, this.#times, this.#activeTimes];
    this.#keys = new Float64Array(keys.length * 2);
    this.#times = new Uint32Array(keys.length * 2);
    this.#activeTimes = new Uint32Array(keys.length * 2);
    this.#tables = 0;
    for (let slot = 0; slot < keys.length; slot += 1) {
      const key = keys[slot] ?? 0;
      if (key !== 0) this.add(key - 1, times[slot] ?? 0, activeTimes[slot] ?? 0);
    }
  }
}
