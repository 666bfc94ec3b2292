// Opens an image to be checked: also one whose chain imgtx would not read from, since a check looks at the
// image's own tables only.
//
// Invariants
// - What QEMU needs to be there must be there: a chain with a missing image is refused. What the gate keeps
//   imgtx out of, loops and damage below do not matter here, and are not opened.
// - After a failure nothing stays open.

import { ImgtxError } from "../../errors/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { type ChainLink, type ChainOptions, filesOf, openChain } from "../chain/backing-chain.ts";
import { type GateOptions, openingNamed } from "../chain/open-gate.ts";
import type { ImageFormat } from "../image-format.ts";

export interface CheckSubject {
  readonly format: ImageFormat;
  /** The image's own file, open for reading. */
  readonly file: StorageFile;
  /** Of the image itself; undefined for raw, and where it may be damaged. */
  readonly header: ChainLink["header"];
  /** Files to be held against writers, for each image of the chain that could be opened. */
  readonly filesByDepth: readonly (readonly StorageFile[])[];
  close(): Promise<void>;
}

/** Fields whose errors tell of what an image stands on, and not of the image. */
const FIELDS_BELOW: ReadonlySet<string> = new Set(["backing_file_name", "backing_format"]);

/** path is absolute. Errors are those of openChain, as far as QEMU would not open the image either. */
export async function openForCheck(
  storage: Storage,
  path: string,
  options: ChainOptions,
): Promise<CheckSubject> {
  try {
    const chain = await openChain(storage, path, options);
    const [top] = chain.links;
    if (top === undefined) throw new ImgtxError("E_INTERNAL", "a chain without an image", { image: path });
    return {
      format: top.format,
      file: top.file,
      header: top.header,
      filesByDepth: chain.links.map(filesOf),
      close: () => chain.close(),
    };
  } catch (error) {
    if (!(error instanceof ImgtxError) || preventsCheck(error, path)) throw error;
    if (error.code === "E_FORMAT_UNKNOWN" && error.image === path && error.field === "format") {
      return openAlone(storage, path, "raw", options.gate);
    }
    return openAlone(storage, path, "qcow2", options.gate);
  }
}

async function openAlone(
  storage: Storage,
  path: string,
  format: ImageFormat,
  gate: GateOptions,
): Promise<CheckSubject> {
  const file = await storage.openFile(path, "read", openingNamed(gate));
  return { format, file, header: undefined, filesByDepth: [[file]], close: () => file.close() };
}

function preventsCheck({ code, image, field, offset }: ImgtxError, path: string): boolean {
  if (code === "E_OUTSIDE" || code === "E_FORMAT_UNKNOWN") return false;
  // Names of protocols and formats that imgtx does not open, and QEMU may.
  if (code === "E_UNSUPPORTED") return image === path && !FIELDS_BELOW.has(field ?? "");
  // Without its magic it is no qcow2 image at all, and QEMU opens neither it nor what stands on it.
  if (code === "E_CORRUPT") return field === "magic" && offset === 0;
  return true;
}
