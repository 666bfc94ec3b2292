// The LUKS header of an encrypted image, as far as it says how the image is encrypted (LUKS On-Disk Format
// Specification, version 1). Nothing here decrypts.
//
// Invariant: pure. Texts are Latin-1, so that any bytes can be told.

import { ImgtxError } from "../../../errors/index.ts";
import { decodeLatin1, SECTOR_BYTES } from "../../../units/index.ts";

const MAGIC = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe];
/** Bytes that decodeLuksHeader needs. */
export const LUKS_HEADER_BYTES = 592;
const SLOTS = 8;
const SLOTS_AT = 208;
const SLOT_BYTES = 48;
const SLOT_ACTIVE = 0x00ac71f3;

interface LuksSlot {
  readonly isActive: boolean;
  readonly iterations: number;
  readonly stripes: number;
  /** Both in bytes from the start of the header. */
  readonly keyOffset: number;
}

export interface LuksHeader {
  /** With the key's size, as QEMU names it: `aes-256`. */
  readonly cipherAlgorithm: string;
  readonly cipherMode: string;
  readonly ivGenerator: string;
  /** Only for generators that hash: `essiv`. */
  readonly ivHash: string | undefined;
  readonly hash: string;
  readonly uuid: string;
  readonly payloadOffset: number;
  readonly masterKeyIterations: number;
  readonly slots: readonly LuksSlot[];
}

/** E_CORRUPT, without a place, where it is no header of version 1. */
export function decodeLuksHeader(bytes: Uint8Array): LuksHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < LUKS_HEADER_BYTES || MAGIC.some((byte, at) => bytes[at] !== byte)) {
    throw corrupt("Volume is not in LUKS format");
  }
  const version = view.getUint16(6);
  if (version !== 1) throw corrupt(`LUKS version ${version} is not supported`);
  // "xts-plain64", "cbc-essiv:sha256": the mode, the generator of IVs, and what that hashes with.
  const [cipherMode = "", generator = ""] = splitOnce(readText(bytes, 40, 32), "-");
  const [ivGenerator = "", ivHash] = splitOnce(generator, ":");
  const keyBytes = view.getUint32(108);
  // XTS takes two keys.
  const keyBits = keyBytes * (cipherMode === "xts" ? 4 : 8);
  return {
    cipherAlgorithm: `${readText(bytes, 8, 32)}-${keyBits}`,
    cipherMode,
    ivGenerator,
    ivHash,
    hash: readText(bytes, 72, 32),
    payloadOffset: view.getUint32(104) * SECTOR_BYTES,
    masterKeyIterations: view.getUint32(164),
    uuid: readText(bytes, 168, 40),
    slots: Array.from({ length: SLOTS }, (_, index) => decodeSlot(view, SLOTS_AT + index * SLOT_BYTES)),
  };
}

function decodeSlot(view: DataView, at: number): LuksSlot {
  return {
    isActive: view.getUint32(at) === SLOT_ACTIVE,
    iterations: view.getUint32(at + 4),
    keyOffset: view.getUint32(at + 40) * SECTOR_BYTES,
    stripes: view.getUint32(at + 44),
  };
}

function readText(bytes: Uint8Array, at: number, lengthBytes: number): string {
  const field = bytes.subarray(at, at + lengthBytes);
  const end = field.indexOf(0);
  return decodeLatin1(field.subarray(0, end < 0 ? lengthBytes : end));
}

function splitOnce(text: string, separator: string): string[] {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function corrupt(message: string): ImgtxError {
  return new ImgtxError("E_CORRUPT", message, { field: "full_disk_encryption" });
}
