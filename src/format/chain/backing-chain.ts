// Opens an image with everything it stands on: the active layer, its backing images down to the base, and
// the external data files between.
//
// Invariants
// - No format is guessed as raw. It is what the caller, or the overlay's backing format, says; a qcow2 magic
//   may speak for itself, the lack of one says nothing.
// - Names resolve as QEMU resolves them (backing-name.ts), and what an image names passes the gate
//   (open-gate.ts).
// - No image is opened twice in a chain: a file in it again, under whatever name, is a loop.
// - After a failure nothing stays open.

import { ImgtxError, placed } from "../../errors/index.ts";
import type { FileStat, Storage, StorageFile } from "../../storage/index.ts";
import {
  composeBackingPath,
  formatInName,
  isProtocolName,
  localFileOf,
  requireLocalName,
} from "./backing-name.ts";
import { CHAIN_DEPTH_MAX, explainOpenFailure, inLoop, tooDeep } from "./chain-errors.ts";
import { type ChainLink, type DataFile, type ImageWarning, readLink } from "./chain-link.ts";
import { fingerprintOpened, identityOf } from "../fingerprint.ts";
import { type ImageFormat, parseImageFormat } from "../image-format.ts";
import { judgeMissingTables } from "./missing-tables.ts";
import {
  assertOwnersCanRead,
  type GateOptions,
  OPENING_PASSED,
  openingNamed,
  type ImplicitOpen,
  passBacking,
  passGate,
} from "./open-gate.ts";
import type { ProbedFormat } from "../probe.ts";
import { quoteName, shellQuote } from "../quote-name.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { requireSupported } from "./require-supported.ts";

export type { ChainLink } from "./chain-link.ts";

export interface ChainOptions {
  /** Of the active layer. Undefined: recognised by its magic; never guessed as raw. */
  readonly format: ImageFormat | undefined;
  readonly gate: GateOptions;
  /** False: the image by itself, whatever it names as its backing file. Default: true. */
  readonly backing?: boolean;
  /** Where the external data file of the image itself is, while it is not at the name that the image stores. */
  readonly dataFileAt?: string | undefined;
  /** Whether the image itself may have no refcount table that it could be written by: for its repair. Default: false. */
  readonly mayLackRefcounts?: boolean | undefined;
}

/** What a link has open: the image's own file, and its external data file where it has one. */
export function filesOf({ file, dataFile }: Pick<ChainLink, "file" | "dataFile">): readonly StorageFile[] {
  return dataFile === undefined ? [file] : [file, dataFile.file];
}

/** The same by path. */
export function pathsOfLink({ path, dataFile }: Pick<ChainLink, "path" | "dataFile">): readonly string[] {
  return dataFile === undefined ? [path] : [path, dataFile.path];
}

export interface Chain {
  /** Active layer first, base last. Never empty. */
  readonly links: readonly ChainLink[];
  /** Closes every file; twice is allowed. */
  close(): Promise<void>;
}

/** What leads to an image: the caller, or the overlay above it. */
interface Reference {
  readonly path: string;
  readonly name: string | undefined;
  readonly overlay: ChainLink | undefined;
  readonly format: ImageFormat | undefined;
}

interface Walk {
  readonly storage: Storage;
  readonly gate: GateOptions;
  readonly dataFileAt: string | undefined;
  readonly mayLackRefcounts: boolean;
  /** Everything opened so far, to be closed on failure. */
  readonly files: StorageFile[];
  /** Users who own an image so far: what the next one is must be for them too. */
  readonly owners: Set<number>;
  /** Path by identity (file system and inode) of every file in the chain. */
  readonly pathOf: Map<string, string>;
}

/**
 * Opens the chain of the image at path, which is absolute. The caller closes it.
 * Errors carry the image: E_NOT_FOUND, E_FORMAT_UNKNOWN, E_UNSUPPORTED, E_CORRUPT, E_OUTSIDE, E_LOOP, and
 * what storage throws. Dirty and corrupt bits are not judged here: see header.isDirty, header.isCorrupt.
 */
export async function openChain(storage: Storage, path: string, options: ChainOptions): Promise<Chain> {
  const { gate, dataFileAt, mayLackRefcounts = false } = options;
  const found = { files: [], owners: new Set<number>(), pathOf: new Map<string, string>() };
  const walk: Walk = { storage, gate, dataFileAt, mayLackRefcounts, ...found };
  const links: ChainLink[] = [];
  try {
    let reference: Reference | undefined = {
      path,
      name: undefined,
      overlay: undefined,
      format: options.format,
    };
    while (reference) {
      if (links.length === CHAIN_DEPTH_MAX) throw tooDeep(path);
      const link: ChainLink = await openLink(walk, reference);
      links.push(link);
      reference = options.backing === false ? undefined : findBackingReference(walk, link);
    }
  } catch (error) {
    await closeAll(walk.files);
    throw error;
  }
  return { links, close: () => closeAll(walk.files) };
}

async function openLink(walk: Walk, reference: Reference): Promise<ChainLink> {
  const { path, name, overlay } = reference;
  const file = await openReferenced(walk, reference);
  const stat = await file.stat();
  claimIdentity(walk, stat, path, overlay?.path ?? path);
  walk.owners.add(stat.ownerId);
  const { link, probed } = await readLink(file, stat, {
    ...reference,
    overlayPath: overlay?.path,
    mayLackRefcounts: walk.mayLackRefcounts && overlay === undefined,
  });
  const warnings: ImageWarning[] = [...findOddName(reference), ...findOddFormat(reference, probed)];
  const { header } = link;
  if (header === undefined) return { ...link, name, warnings };
  requireSupported(header, path);
  const missing = await judgeMissingTables(header, file, path);
  if (missing !== undefined) warnings.push(missing);
  const dataFileAt = overlay === undefined ? walk.dataFileAt : undefined;
  const dataFile = await openDataFile(walk, path, header, { dataFileAt, warnings });
  return { ...link, name, dataFile, warnings };
}

/** What is odd about the name that leads to an image. */
function findOddName({ name, overlay }: Reference): ImageWarning[] {
  const local = name === undefined ? undefined : localFileOf(name);
  if (name === undefined || overlay === undefined || local === undefined || local.startsWith("/")) return [];
  return [{ code: "backing file in current folder", image: overlay.path, name }];
}

async function openReferenced(walk: Walk, reference: Reference): Promise<StorageFile> {
  const { path, name, overlay, format } = reference;
  if (overlay === undefined || name === undefined)
    return hold(walk, await walk.storage.openFile(path, "read", openingNamed(walk.gate)));
  try {
    await assertOwnersCanRead(
      walk.storage,
      walk.gate,
      { what: "backing image", path, overlayPath: overlay.path },
      walk.owners,
    );
    const target = { path, storedName: name, overlayPath: overlay.path };
    return hold(walk, await openBacking(walk, target, format));
  } catch (error) {
    throw explainOpenFailure(error, { what: "backing file", name, path, overlayPath: overlay.path });
  }
}

/** What is no raw image is opened at once: to ask first whether it is a device would cost as much, and nearly none is. */
async function openBacking(
  { storage, gate }: Walk,
  target: Omit<ImplicitOpen, "what">,
  format: ImageFormat | undefined,
): Promise<StorageFile> {
  if (format !== "raw") {
    try {
      return await storage.openFile(target.path, "read");
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code !== "E_NOT_A_FILE") throw error;
    }
  }
  const { path, opening } = await passBacking(storage, gate, target, format);
  return await storage.openFile(path, "read", opening);
}

/** What is odd about the format that an image is taken for. */
function findOddFormat(
  { path, name, overlay, format }: Reference,
  probed: ProbedFormat | undefined,
): readonly ImageWarning[] {
  if (format === "raw" && probed !== undefined)
    return [{ code: "used as raw", image: path, looksLike: probed }];
  if (format !== undefined || overlay === undefined) return [];
  return [{ code: "format not stated", image: overlay.path, name: name ?? "" }];
}

function findBackingReference(walk: Walk, overlay: ChainLink): Reference | undefined {
  const name = overlay.header?.backingFileName;
  if (name === undefined) return undefined;
  requireLocalName(name, overlay.path);
  return {
    path: composeBackingPath(overlay.path, name, walk.gate.currentFolder),
    name,
    overlay,
    format: parseBackingFormat(overlay),
  };
}

function parseBackingFormat(overlay: ChainLink): ImageFormat | undefined {
  const { backingFormat: stated, backingFileName: name = "" } = overlay.header ?? {};
  if (stated === undefined) return formatInName(name);
  return placed({ image: overlay.path, field: "backing_format" }, () => parseImageFormat(stated));
}

/** Unlike a backing file's, a relative data file name is relative to the current folder: so QEMU opens it. */
async function openDataFile(
  walk: Walk,
  imagePath: string,
  header: Qcow2Header,
  { dataFileAt, warnings }: { readonly dataFileAt: string | undefined; readonly warnings: ImageWarning[] },
): Promise<DataFile | undefined> {
  if (!header.hasExternalDataFile) return undefined;
  const name = header.dataFileName;
  if (name === undefined || name === "") {
    throw new ImgtxError("E_UNSUPPORTED", "'data-file' is required for this image: its header names none", {
      image: imagePath,
      field: "data_file_name",
      hint: `store the name with \`qemu-img amend --image-opts -o data_file=NAME ${openedWithout(imagePath)}\``,
    });
  }
  if (isProtocolName(name)) throw ambiguousDataFile(name, imagePath);
  const named = name.startsWith("/") ? name : `${walk.gate.currentFolder}/${name}`;
  const path = dataFileAt ?? named;
  if (named !== name) {
    warnings.push({ code: "data file in current folder", image: imagePath, name });
  }
  const target = { what: "external data file", path, storedName: name, overlayPath: imagePath } as const;
  try {
    const gate = trusting(walk.gate, dataFileAt);
    await assertOwnersCanRead(walk.storage, gate, target, walk.owners);
    const realPath = await passGate(walk.storage, gate, target);
    const file = hold(walk, await walk.storage.openFile(realPath, "read", OPENING_PASSED));
    const stat = await file.stat();
    claimIdentity(walk, stat, path, imagePath);
    return { path, file, stat, fingerprint: await fingerprintOpened(file, stat, undefined) };
  } catch (error) {
    throw explainOpenFailure(error, { what: "external data file", name, path, overlayPath: imagePath });
  }
}

/** Versions of QEMU do not agree on the file. */
function ambiguousDataFile(name: string, image: string): ImgtxError {
  return new ImgtxError(
    "E_UNSUPPORTED",
    `the name of its data file, ${quoteName(name)}, names a protocol to QEMU before 2024, and a file of that very name since`,
    {
      image,
      field: "data_file_name",
      hint: "give the file a name without a colon, and make an image anew over it",
    },
  );
}

/** For qemu-img, which opens an image that names no data file only where it is told of one. */
function openedWithout(image: string): string {
  const options = `driver=qcow2,file.driver=file,file.filename=${image.replaceAll(",", ",,")}`;
  return `${shellQuote(options)},data-file.driver=file,data-file.filename=NAME`;
}

/** Where the data file is by the caller's own word, it may be anywhere. */
function trusting(gate: GateOptions, path: string | undefined): GateOptions {
  return path === undefined ? gate : { ...gate, allowPaths: [...gate.allowPaths, path] };
}

function hold(walk: Walk, file: StorageFile): StorageFile {
  walk.files.push(file);
  return file;
}

function claimIdentity(walk: Walk, stat: FileStat, path: string, namedBy: string): void {
  const identity = identityOf(stat);
  const earlier = walk.pathOf.get(identity);
  if (earlier !== undefined) {
    throw inLoop(path, earlier, namedBy);
  }
  walk.pathOf.set(identity, path);
}

async function closeAll(files: readonly StorageFile[]): Promise<void> {
  await Promise.all(files.map((file) => file.close()));
}
