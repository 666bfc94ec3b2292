// One image file by what its own header says, for who judges images that may be damaged or hostile: whatever can't be read
// is an answer, and not the end.
//
// Invariants
// - Nothing but the file itself is opened, and only a regular one, or a block device where that may be: what it names is the
//   caller's to follow.
// - Read are the header cluster, what counts the clusters at the end of the file, and the bitmap directory.

import { ImgtxError } from "../../errors/index.ts";
import { alignUp } from "../../units/index.ts";
import type { FileStat, OpenOptions, Storage, StorageFile } from "../../storage/index.ts";
import type { CutOff } from "../chain/chain-link.ts";
import { findCutOffTables } from "../chain/missing-tables.ts";
import { type Fingerprint, fingerprintOpened } from "../fingerprint.ts";
import { probeFile, readHead, readQcow2Header } from "../read-header.ts";
import { readStoredBitmaps } from "../read-directories.ts";
import { hasQcowMagic, type ProbedFormat } from "../probe.ts";
import type { BitmapEntry } from "../qcow2/codec/bitmap.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { requireSupported } from "../chain/require-supported.ts";
import { readCountedEnd } from "../qcow2/check/counted-end.ts";

export interface ExaminedImage {
  readonly path: string;
  readonly stat: FileStat;
  /** What its bytes look like; undefined: nothing, as a raw image does. */
  readonly probed: ProbedFormat | undefined;
  /** Undefined where it is no qcow2 image, or its header can't be true. */
  readonly header: Qcow2Header | undefined;
  /** Undefined where it could not be opened. */
  readonly fingerprint: Fingerprint | undefined;
  readonly bitmaps: readonly Pick<BitmapEntry, "name" | "isInUse">[];
  /** What its header points to, or its refcounts count, and the file does not have. */
  readonly cutOff: CutOff | undefined;
  /** Why it can't be opened, or what of its header can't be true. */
  readonly problem: ImgtxError | undefined;
}

/** Of the file that the path leads to, links followed, and what was found there. */
export async function examineImage(
  storage: Storage,
  path: string,
  stat: FileStat,
  opening: Pick<OpenOptions, "mayBeDevice"> = {},
): Promise<ExaminedImage> {
  const blank = {
    path,
    probed: undefined,
    header: undefined,
    fingerprint: undefined,
    bitmaps: [],
    cutOff: undefined,
  };
  // Empty, as all files of the kernel's own file systems say they are: a read there could wait for good.
  if (stat.kind === "file" && stat.sizeBytes === 0) return { ...blank, stat, problem: undefined };
  let file: StorageFile;
  try {
    file = await storage.openFile(path, "read", opening);
  } catch (error) {
    return { ...blank, stat, problem: asAnswer(error) };
  }
  try {
    return await examineFile(file, stat, path);
  } catch (error) {
    return { ...blank, stat, problem: asAnswer(error) };
  } finally {
    await file.close();
  }
}

async function examineFile(file: StorageFile, stat: FileStat, path: string): Promise<ExaminedImage> {
  const head = await readHead(file);
  const probed = await probeFile(file, head, stat.sizeBytes);
  const isQcow2 = hasQcowMagic(head);
  const fingerprint = await fingerprintOpened(file, stat, isQcow2 ? head : undefined);
  const known = { path, stat, probed, fingerprint };
  const nothing = { header: undefined, bitmaps: [], cutOff: undefined };
  if (probed !== "qcow2") return { ...known, ...nothing, problem: undefined };
  let header: Qcow2Header;
  try {
    header = await readQcow2Header(file, head, stat.sizeBytes, path, { mayLackTables: true });
  } catch (error) {
    return { ...known, ...nothing, problem: asAnswer(error) };
  }
  const cutOff = await findCutOff(file, header, stat.sizeBytes);
  if (cutOff !== undefined) return { ...known, header, bitmaps: [], cutOff, problem: undefined };
  try {
    requireSupported(header, path);
    const bitmaps = await readStoredBitmaps(file, header, 0);
    return { ...known, header, bitmaps, cutOff, problem: undefined };
  } catch (error) {
    return { ...known, header, bitmaps: [], cutOff, problem: asAnswer(error).with({ image: path }) };
  }
}

async function findCutOff(
  file: StorageFile,
  header: Qcow2Header,
  sizeBytes: number,
): Promise<CutOff | undefined> {
  if (header.missingTables.length > 0) return await findCutOffTables(header, file);
  const end = await readCountedEnd(file, header, sizeBytes);
  return end === undefined
    ? undefined
    : { start: alignUp(sizeBytes, header.clusterSizeBytes), end, sizeBytes };
}

function asAnswer(error: unknown): ImgtxError {
  if (error instanceof ImgtxError && error.code !== "E_INTERNAL") return error;
  throw error;
}
