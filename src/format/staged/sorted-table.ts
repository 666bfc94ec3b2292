// A table of numbers by ascending keys, in blocks of typed arrays: 8 bytes for a key and 8 for each value, whatever
// lies between the keys.
//
// Invariants
// - Keys ascend strictly, in a block and from block to block. No block is empty.
// - Filled in ascending order all blocks but the last are full; in any order they are half full at least, on average.

/** Found in the table. A snapshot: changing it changes nothing. */
export interface TableEntry<Key extends number = number> {
  readonly key: Key;
  readonly value: number;
  /** 0 in a table of one value. */
  readonly second: number;
}

interface Block {
  readonly keys: Float64Array;
  readonly values: Float64Array;
  length: number;
}

const BLOCK_ENTRIES = 512;

export class SortedTable<Key extends number = number> {
  readonly #columns: 1 | 2;
  readonly #blocks: Block[] = [];
  #size = 0;

  /** columns: values for each key. */
  constructor(columns: 1 | 2) {
    this.#columns = columns;
  }

  get size(): number {
    return this.#size;
  }

  /** What the arrays take. */
  get memoryBytes(): number {
    return this.#blocks.length * BLOCK_ENTRIES * 8 * (1 + this.#columns);
  }

  get last(): TableEntry<Key> | undefined {
    const index = this.#blocks.length - 1;
    const block = this.#blocks[index];
    return block && this.#entry(index, block.length - 1);
  }

  /** The value of this key; undefined where there is none. */
  get(key: Key): number | undefined {
    const block = this.#blocks[this.#findBlock(key)];
    if (block === undefined) return undefined;
    const at = findKey(block, key);
    return at < block.length && block.keys[at] === key ? block.values[at * this.#columns] : undefined;
  }

  /** The entry with the greatest key that is not above this one. */
  atOrBefore(key: Key): TableEntry<Key> | undefined {
    const index = this.#findBlock(key);
    const block = this.#blocks[index];
    if (block === undefined) return undefined;
    const at = findKey(block, key);
    const found = at < block.length && block.keys[at] === key ? at : at - 1;
    return found < 0 ? undefined : this.#entry(index, found);
  }

  /** The entry with the smallest key that is not below this one. */
  atOrAfter(key: Key): TableEntry<Key> | undefined {
    const [index, at] = this.#seek(key);
    return this.#entry(index, at);
  }

  /** Entries by ascending keys. The table must not change meanwhile. */
  *[Symbol.iterator](): Generator<TableEntry<Key>> {
    for (const [index, { length }] of this.#blocks.entries()) {
      for (let at = 0; at < length; at += 1) {
        const entry = this.#entry(index, at);
        if (entry) yield entry;
      }
    }
  }

  /** In the place of the entry with this key, where there is one. */
  set(key: Key, value: number, second = 0): void {
    let index = this.#findBlock(key);
    let block = this.#blocks[index];
    if (block === undefined) {
      block = this.#insertBlock(0);
      index = 0;
    }
    let at = findKey(block, key);
    if (at === block.length || block.keys[at] !== key) {
      if (block.length === BLOCK_ENTRIES) {
        this.#split(index, at);
        this.set(key, value, second);
        return;
      }
      this.#move(block, at, at + 1);
      block.length += 1;
      this.#size += 1;
    }
    block.keys[at] = key;
    block.values[at * this.#columns] = value;
    if (this.#columns === 2) block.values[at * 2 + 1] = second;
  }

  /** Removes the entries of [first, end). */
  removeRange(first: Key, end: Key): void {
    for (;;) {
      const [index, from] = this.#seek(first);
      const block = this.#blocks[index];
      if (block === undefined) return;
      const to = findKey(block, end);
      if (to <= from) return;
      this.#move(block, to, from);
      block.length -= to - from;
      this.#size -= to - from;
      if (block.length === 0) this.#blocks.splice(index, 1);
    }
  }

  /** Moves what stands from `source` on to `target`. */
  #move(block: Block, source: number, target: number): void {
    const columns = this.#columns;
    block.keys.copyWithin(target, source, block.length);
    block.values.copyWithin(target * columns, source * columns, block.length * columns);
  }

  #insertBlock(index: number): Block {
    const block = {
      keys: new Float64Array(BLOCK_ENTRIES),
      values: new Float64Array(BLOCK_ENTRIES * this.#columns),
      length: 0,
    };
    this.#blocks.splice(index, 0, block);
    return block;
  }

  /** Makes room for an entry at a place of a full block. After the last entry of all, the full block stays full. */
  #split(index: number, at: number): void {
    const block = this.#blocks[index];
    if (block === undefined) return;
    const next = this.#insertBlock(index + 1);
    const isLast = index + 2 === this.#blocks.length;
    const kept = isLast && at === BLOCK_ENTRIES ? BLOCK_ENTRIES - 1 : BLOCK_ENTRIES / 2;
    next.keys.set(block.keys.subarray(kept));
    next.values.set(block.values.subarray(kept * this.#columns));
    next.length = BLOCK_ENTRIES - kept;
    block.length = kept;
  }

  /** The last block that does not begin above the key; else the first. */
  #findBlock(key: number): number {
    let low = 0;
    let high = this.#blocks.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((this.#blocks[middle]?.keys[0] ?? 0) <= key) low = middle;
      else high = middle;
    }
    return low;
  }

  /** Where the smallest key is that is not below this one: block, and place in it. */
  #seek(key: number): [index: number, at: number] {
    const index = this.#findBlock(key);
    const block = this.#blocks[index];
    if (block === undefined) return [index, 0];
    const at = findKey(block, key);
    return at === block.length ? [index + 1, 0] : [index, at];
  }

  #entry(index: number, at: number): TableEntry<Key> | undefined {
    const block = this.#blocks[index];
    const key = block?.keys[at] as Key | undefined;
    if (block === undefined || key === undefined || at >= block.length) return undefined;
    const columns = this.#columns;
    return {
      key,
      value: block.values[at * columns] ?? 0,
      second: columns === 2 ? (block.values[at * 2 + 1] ?? 0) : 0,
    };
  }
}

/** Where in the block the first key is that is not below this one. */
function findKey({ keys, length }: Block, key: number): number {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] ?? 0) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
