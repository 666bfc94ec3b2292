// Opens an image to be described: by itself, without what it stands on.
//
// Invariants
// - Neither backing images nor data files are opened, so that nothing depends on where they are, or on what a
//   name in the header could lead to.
// - Encrypted images can be described; images with features that imgtx does not know can't.

import { ImgtxError } from "../../errors/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import type { ChainLink } from "../chain/backing-chain.ts";
import { notQcow2, unknownFormat } from "../chain/chain-errors.ts";
import { fingerprintFrom } from "../fingerprint.ts";
import type { ImageFormat } from "../image-format.ts";
import { type GateOptions, passGate } from "../chain/open-gate.ts";
import { hasQcowMagic } from "../probe.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { SECTOR_BYTES } from "../qcow2/codec/limits.ts";
import { probeFile, readHead, readQcow2Header } from "../read-header.ts";
import { requireSupported } from "../chain/require-supported.ts";

/** How an image leads to another one. */
export interface InfoReference {
  readonly gate: GateOptions;
  readonly overlayPath: string;
  readonly storedName: string;
}

/**
 * The image at path, which is absolute, as a link of no chain; the caller closes its file. format undefined:
 * recognised by its magic, and raw where it has none that is known, unless another image led here: then that
 * is E_FORMAT_UNKNOWN.
 */
export async function openForInfo(
  storage: Storage,
  path: string,
  format: ImageFormat | undefined,
  reference?: InfoReference,
): Promise<ChainLink> {
  const file = await openFile(storage, path, format, reference);
  try {
    return await describeLink(file, path, format, reference);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function openFile(
  storage: Storage,
  path: string,
  format: ImageFormat | undefined,
  reference: InfoReference | undefined,
): Promise<StorageFile> {
  if (reference === undefined || format !== "raw") return storage.openFile(path, "read");
  const { gate, overlayPath, storedName } = reference;
  const target = { what: "raw backing image", path, storedName, overlayPath } as const;
  return storage.openFile(await passGate(storage, gate, target), "read", { refuseSymlink: true });
}

async function describeLink(
  file: StorageFile,
  path: string,
  stated: ImageFormat | undefined,
  reference: InfoReference | undefined,
): Promise<ChainLink> {
  const stat = await file.stat();
  const head = await readHead(file);
  const probed = await probeFile(file, head, stat.sizeBytes);
  if (stated === "qcow2" && !hasQcowMagic(head)) throw notQcow2(path, probed, reference?.overlayPath);
  // The user named this very file, so that no guest can have led here by what it wrote.
  const isGuessed = stated === undefined && probed === undefined && reference === undefined;
  if (stated === undefined && probed !== "qcow2" && !isGuessed) {
    throw unknownFormat(path, probed, reference?.overlayPath);
  }
  const common = { path, name: undefined, file, stat, dataFile: undefined, warnings: [] };
  if (stated === "raw" || isGuessed) {
    const virtualSizeBytes = Math.ceil(stat.sizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
    const fingerprint = fingerprintFrom(stat, undefined);
    return { ...common, format: "raw", virtualSizeBytes, header: undefined, fingerprint };
  }
  const header = await readQcow2Header(file, head, stat.sizeBytes, path, { mayLackTables: true });
  requireDescribable(header, path);
  const virtualSizeBytes = Math.floor(header.size / SECTOR_BYTES) * SECTOR_BYTES;
  return { ...common, format: "qcow2", virtualSizeBytes, header, fingerprint: fingerprintFrom(stat, head) };
}

const KNOWN_CRYPT_METHODS: readonly number[] = [1, 2];

/** Refuses as reading does, but for encryption of a known kind: it does not hide what an image says of itself. */
function requireDescribable(header: Qcow2Header, path: string): void {
  try {
    requireSupported(header, path);
  } catch (error) {
    const isEncryption = error instanceof ImgtxError && error.field === "crypt_method";
    if (!isEncryption || !KNOWN_CRYPT_METHODS.includes(header.cryptMethod)) throw error;
  }
}
