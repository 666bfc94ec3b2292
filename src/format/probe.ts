// Recognises image formats by their magic bytes.
//
// Invariant: raw has no magic, so the answer is never raw. An image that nothing is recognised in may be
// anything, and only a person, the device table or an overlay's header may call it raw: a guest can write
// whatever it likes into a raw disk (CVE-2008-2004).

import { decodeLatin1 } from "../units/index.ts";

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

/** As Latin-1. */
type Signature = readonly [format: ProbedFormat, text: string, at: number];

const HEAD_SIGNATURES: readonly Signature[] = [
  ["qed", "QED\0", 0],
  ["vmdk", "KDMV", 0],
  ["vmdk", "COWD", 0],
  ["vdi", "\x7F\x10\xDA\xBE", 0x40],
  ["vhdx", "vhdxfile", 0],
  ["vpc", "conectix", 0],
  ["luks", "LUKS\xBA\xBE", 0],
  ["parallels", "WithoutFreeSpace", 0],
  ["parallels", "WithouFreSpacExt", 0],
  ["bochs", "Bochs Virtual HD Image", 0],
  ["cloop", "#!/bin/sh\n#V2.0 Format\n", 0],
];

const TAIL_SIGNATURES: readonly Signature[] = [
  ["vpc", "conectix", 0],
  ["dmg", "koly", 0],
];

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
  const start = decodeLatin1(head.subarray(0, PROBE_HEAD_BYTES));
  const found = formatOf(start, HEAD_SIGNATURES);
  if (found) return found;
  if (VMDK_DESCRIPTOR.test(start)) return "vmdk";
  return formatOf(decodeLatin1(tail.subarray(0, PROBE_TAIL_BYTES)), TAIL_SIGNATURES);
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

function formatOf(text: string, signatures: readonly Signature[]): ProbedFormat | undefined {
  for (const [format, signature, at] of signatures) if (text.startsWith(signature, at)) return format;
  return undefined;
}

/** A name that says raw. Where the bytes look like a format then, a guest may have written them (CVE-2026-24708). */
export function isNamedRaw(path: string): boolean {
  return /\.raw$/i.test(path);
}
