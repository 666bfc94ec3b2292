// What the independent readers say of images, by the bytes of all their files: a rig meets the same image in thousands
// of states.

import { guestDigest, type ImageBytes, openGuest, openSnapshots } from "../../helpers/guest-content.ts";
import { structureProblems } from "../../helpers/qcow2-structure.ts";

export interface KnownBytes extends ImageBytes {
  /** Equal for equal bytes alone. Left out where that is not known without reading them. */
  digest?(): string;
}

export interface SeenGuest {
  readonly sizeBytes: number;
  readonly digest: string;
}

interface Files {
  open(path: string): KnownBytes;
}

/** More than one scenario makes; then all are forgotten. */
const MOST = 4096;

const guests = new Map<string, SeenGuest>();
const problems = new Map<string, readonly string[]>();
const snapshots = new Map<string, readonly string[]>();

export function readGuest(files: Files, path: string, format: string): SeenGuest {
  const opened: KnownBytes[] = [];
  const open = (file: string): KnownBytes => {
    const bytes = files.open(file);
    opened.push(bytes);
    return bytes;
  };
  // This opens every file of the chain.
  const guest = openGuest(open, path, format);
  return once(guests, keyOf(opened, format), () => ({
    sizeBytes: guest.sizeBytes,
    digest: guestDigest(guest),
  }));
}

/** What each internal snapshot of a qcow2 image holds, a line each. */
export function readSnapshots(files: Files, path: string): readonly string[] {
  const opened: KnownBytes[] = [];
  const found = openSnapshots((file) => {
    const bytes = files.open(file);
    opened.push(bytes);
    return bytes;
  }, path);
  return once(snapshots, keyOf(opened, "snapshots"), () =>
    [...found].map(([name, guest]) => `${name} of ${guest.sizeBytes} bytes, ${guestDigest(guest)}`),
  );
}

/** See structureProblems. */
export function findProblems(files: Files, path: string): readonly string[] {
  const bytes = files.open(path);
  return once(problems, keyOf([bytes], path), () => structureProblems(bytes, path));
}

function keyOf(opened: readonly KnownBytes[], what: string): string | undefined {
  const digests = opened.map((bytes) => bytes.digest?.());
  return digests.includes(undefined) ? undefined : `${what} ${digests.join(" ")}`;
}

function once<T>(known: Map<string, T>, key: string | undefined, make: () => T): T {
  const found = key === undefined ? undefined : known.get(key);
  if (found !== undefined) return found;
  const made = make();
  if (key === undefined) return made;
  if (known.size >= MOST) known.clear();
  known.set(key, made);
  return made;
}
