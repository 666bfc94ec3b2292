// node:crypto as the single file has it: its runtime's own digests, which are there at once, where loading all of its
// node:crypto takes 2 ms, a tenth of what a small command takes.

declare const Bun: {
  readonly CryptoHasher: {
    new (
      name: string,
    ): {
      update(bytes: string | Uint8Array): unknown;
      digest(): Buffer;
      digest(encoding: "hex"): string;
    };
    hash(name: string, bytes: string | Uint8Array, encoding: "hex"): string;
  };
};

/** A seventh of the time of a hash that is made first, for the many small digests of a redo log. */
export function hash(name: string, bytes: string | Uint8Array, encoding: "hex"): string {
  return Bun.CryptoHasher.hash(name, bytes, encoding);
}

export function createHash(name: string): InstanceType<typeof Bun.CryptoHasher> {
  return new Bun.CryptoHasher(name);
}

/** Evenly from 0 to below `limit`, which is at most 256. */
export function randomInt(limit: number): number {
  const even = 256 - (256 % limit);
  const drawn = new Uint8Array(1);
  do crypto.getRandomValues(drawn);
  while ((drawn[0] ?? 0) >= even);
  return (drawn[0] ?? 0) % limit;
}
