// What data from a file must look like before it is taken for what its type says. A checksum shows that a
// file is whole; it does not show that imgtx wrote it.

export type Shape = (value: unknown) => boolean;

export const isText: Shape = (value) => typeof value === "string";
export const isFlag: Shape = (value) => typeof value === "boolean";
export const isCount: Shape = (value) => Number.isSafeInteger(value) && (value as number) >= 0;

export function orNull(shape: Shape): Shape {
  return (value) => value === null || shape(value);
}

export function orAbsent(shape: Shape): Shape {
  return (value) => value === undefined || shape(value);
}

export function listOf(shape: Shape): Shape {
  return (value) => Array.isArray(value) && value.every(shape);
}

export function oneOf(...texts: readonly string[]): Shape {
  return (value) => texts.some((text) => text === value);
}

/** An object that has these fields, each of its shape, and perhaps others. */
export function objectOf(fields: Readonly<Record<string, Shape>>): Shape {
  const wanted = Object.entries(fields);
  return (value) =>
    typeof value === "object" &&
    value !== null &&
    wanted.every(([name, shape]) => shape((value as Readonly<Record<string, unknown>>)[name]));
}

const isFormat = oneOf("qcow2", "raw");

export const isFingerprint = objectOf({
  sizeBytes: isCount,
  modifiedNs: isText,
  inode: isText,
  bornNs: isText,
  headerSha256: orNull(isText),
  // The version before kept none of these.
  changedNs: orAbsent(isText),
  settled: orAbsent(isFlag),
  fileSystem: orAbsent(isText),
  fileSystemId: orAbsent(isText),
  mountId: orAbsent(isText),
  bootId: orAbsent(isText),
});

const isChain = listOf(
  objectOf({
    image: isText,
    format: isFormat,
    name: orNull(isText),
    fingerprint: isFingerprint,
    dataFile: orNull(objectOf({ image: isText, fingerprint: isFingerprint })),
  }),
);

const isMirrorEntry = objectOf({
  image: isText,
  format: isFormat,
  sync: oneOf("full", "top", "none"),
  chain: isChain,
  source: isChain,
  bitmap: orNull(isText),
  witness: orAbsent(isText),
});

const isFrozenEntry = objectOf({
  since: isText,
  by: isText,
  fences: listOf(
    objectOf({
      image: isText,
      offset: isCount,
      before: isText,
      after: isText,
      modifiedNs: isText,
      unfencedSha256: isText,
    }),
  ),
});

export const isDeviceEntry = objectOf({
  name: isText,
  image: isText,
  format: isFormat,
  virtualSizeBytes: isCount,
  chain: isChain,
  mirror: orNull(isMirrorEntry),
  frozen: orNull(isFrozenEntry),
  trusted: orAbsent(listOf(isText)),
});
