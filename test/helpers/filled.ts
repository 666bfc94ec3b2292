// Whether bytes are all the same one, at the speed of memory: what a test reads is megabytes, thousands of times.

export function isFilledWith(value: number, bytes: Uint8Array): boolean {
  // Each byte is the one before it.
  return (
    bytes.length === 0 ||
    (bytes[0] === value && Buffer.compare(bytes.subarray(1), bytes.subarray(0, -1)) === 0)
  );
}
