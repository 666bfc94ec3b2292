// Small files of the machine that a snapshot keeps beside its disks: firmware variables, its definition. Their copies lie
// in a folder of the workspace, each under a name that no other copy had; the snapshot's record says what they hold.

import { posix } from "node:path";
import { isCount, isText, objectOf } from "./data-shape.ts";

export interface FileBeside {
  /** What it was called, and is called where it is given back. */
  readonly name: string;
  /** The copy's name in the folder: the id of the transaction that made it, and a number. */
  readonly copy: string;
  readonly sizeBytes: number;
  /** Of all that it holds, in hex. */
  readonly sha256: string;
  /** Permission bits. */
  readonly mode: number;
  readonly ownerId: number;
  readonly groupId: number;
}

const COPY_NAME = /^[a-z0-9]+-\d{1,6}$/;

const isShaped = objectOf<FileBeside>({
  name: isText,
  copy: isText,
  sizeBytes: isCount,
  sha256: isText,
  mode: isCount,
  ownerId: isCount,
  groupId: isCount,
});

/** Whose names lead nowhere else. */
export const isFileBeside = (value: unknown): value is FileBeside =>
  isShaped(value) &&
  COPY_NAME.test(value.copy) &&
  posix.basename(value.name) === value.name &&
  !["", ".", ".."].includes(value.name);

export function fileBesidePath(root: string, copy: string): string {
  return `${root}/.imgtx/beside/${copy}`;
}
