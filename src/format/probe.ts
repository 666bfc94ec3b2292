// Recognises image formats by their magic bytes.
//
// Invariant: raw has no magic, so the answer is never raw. An image that nothing is recognised in may be
// anything, and only a person, the device table or an overlay's header may call it raw: a guest can write
// whatever it likes into a raw disk (CVE-2008-2004).

export type ProbedFormat =
  | "qcow2"
  | "qcow"
  | "qed"
  | "vmdk"
  | "vdi"
  | "vhdx"
  | "vpc"
  | "luks"
  | "parallels"
  | "bochs"
  | "cloop"
  | "dmg";

/** Bytes from the start of the file that probing looks at. */
const PROBE_HEAD_BYTES = 512;
/** Bytes before the end of the file that hold a footer, in formats that have one. */
export const PROBE_TAIL_BYTES = 512;

interface Signature {
  readonly format: ProbedFormat;
  readonly at: number;
  readonly bytes: Uint8Array;
}

const HEAD_SIGNATURES: readonly Signature[] = [
  signature("qed", 0, "QED\0"),
  signature("vmdk", 0, "KDMV"),
  signature("vmdk", 0, "COWD"),
  signature("vdi", 0x40, [0x7f, 0x10, 0xda, 0xbe]),
  signature("vhdx", 0, "vhdxfile"),
  signature("vpc", 0, "conectix"),
  signature("luks", 0, [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]),
  signature("parallels", 0, "WithoutFreeSpace"),
  signature("parallels", 0, "WithouFreSpacExt"),
  signature("bochs", 0, "Bochs Virtual HD Image"),
  signature("cloop", 0, "#!/bin/sh\n#V2.0 Format\n"),
];

const TAIL_SIGNATURES: readonly Signature[] = [signature("vpc", 0, "conectix"), signature("dmg", 0, "koly")];

const VMDK_DESCRIPTOR = /^(?:#[^\n]*\n|\s)*# *disk descriptorfile/i;

/**
 * The format that the bytes of a file show. head is its beginning; tail its last PROBE_TAIL_BYTES, or empty
 * to leave out the formats that are known by a footer only.
 */
export function probeFormat(
  head: Uint8Array,
  tail: Uint8Array = new Uint8Array(0),
): ProbedFormat | undefined {
  if (hasQcowMagic(head)) return probeQcowVersion(head);
  const found = HEAD_SIGNATURES.find((candidate) => matches(head, candidate));
  if (found) return found.format;
  if (VMDK_DESCRIPTOR.test(String.fromCharCode(...head.subarray(0, PROBE_HEAD_BYTES)))) return "vmdk";
  return TAIL_SIGNATURES.find((candidate) => matches(tail, candidate))?.format;
}

/** Whether the file starts as qcow and qcow2 images of any version do. */
export function hasQcowMagic(head: Uint8Array): boolean {
  return head[0] === 0x51 && head[1] === 0x46 && head[2] === 0x49 && head[3] === 0xfb;
}

// qcow and qcow2 share their magic; the version after it tells them apart.
function probeQcowVersion(head: Uint8Array): ProbedFormat | undefined {
  const [high, low] = [(head[4] ?? 0) + (head[5] ?? 0) + (head[6] ?? 0), head[7] ?? 0];
  if (high === 0 && low === 0) return undefined;
  return high === 0 && low === 1 ? "qcow" : "qcow2";
}

function matches(bytes: Uint8Array, candidate: Signature): boolean {
  return candidate.bytes.every((byte, index) => bytes[candidate.at + index] === byte);
}

function signature(format: ProbedFormat, at: number, bytes: string | readonly number[]): Signature {
  const values = typeof bytes === "string" ? new TextEncoder().encode(bytes) : new Uint8Array(bytes);
  return { format, at, bytes: values };
}

/** A name that says raw. Where the bytes look like a format then, a guest may have written them (CVE-2026-24708). */
export function isNamedRaw(path: string): boolean {
  return /\.raw$/i.test(path);
}
