// Opens an image to be described: by itself, without what it stands on.
//
// Invariants
// - Neither backing images nor data files are opened, so that nothing depends on where they are, or on what a
//   name in the header could lead to.
// - Encrypted images can be described; images with features that imgtx does not know can't.

import { elseClosed, ImgtxError } from "../../errors/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { type ChainLink, readLink } from "../chain/chain-link.ts";
import { type GateOptions, openingNamed, passBacking } from "../chain/open-gate.ts";
import { requireSupported } from "../chain/require-supported.ts";
import type { ImageFormat } from "../image-format.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";

/** How an image leads to another one. */
export interface InfoReference {
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
  gate: GateOptions,
  reference?: InfoReference,
): Promise<ChainLink> {
  return await elseClosed(await openFile(storage, path, format, gate, reference), async (file) => {
    const overlayPath = reference?.overlayPath;
    const { link } = await readLink(file, await file.stat(), { path, format, overlayPath, mayBeRaw: true });
    if (link.header !== undefined) requireDescribable(link.header, path);
    return link;
  });
}

async function openFile(
  storage: Storage,
  path: string,
  format: ImageFormat | undefined,
  gate: GateOptions,
  reference: InfoReference | undefined,
): Promise<StorageFile> {
  if (reference === undefined) return storage.openFile(path, "read", openingNamed(gate));
  const passed = await passBacking(storage, gate, { path, ...reference }, format);
  return storage.openFile(passed.path, "read", passed.opening);
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
