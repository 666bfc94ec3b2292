// What doctor finds: one table of all that it can say, and a finding as data.
//
// Invariant: codes are a contract. The man page has each with what it means and what to do.

import type { ImageFormat } from "../../format/index.ts";
import type { ActionRequest } from "../requests/request.ts";

/** error: data is wrong, or can't be read. warning: it will be, or somebody will be refused. note: worth knowing. */
export type Weight = "error" | "warning" | "note";

/** By code how bad it is, in the order in which findings of one weight are told. */
export const FINDINGS = {
  // Headers and files.
  "cut-off": "error",
  "header-damaged": "error",
  "corrupt-bit": "error",
  "half-changed": "error",
  damaged: "error",
  uncounted: "error",
  "raw-imitates": "error",
  // Names and chains.
  "backing-loop": "error",
  "backing-missing": "error",
  "backing-unusable": "error",
  "data-file-missing": "error",
  "backing-changed": "error",
  "merge-ruins-overlay": "error",
  // Workspaces.
  "device-unsound": "error",
  "snapshot-unsound": "error",
  "transaction-unfinished": "error",
  // Of a guest that is to be started.
  "guest-frozen": "error",
  "guest-held": "error",
  "guest-below": "error",
  "guest-format": "error",

  "backing-newer": "warning",
  "format-missing": "warning",
  "name-ambiguous": "warning",
  "data-file-ambiguous": "warning",
  "chain-deep": "warning",
  "dirty-bit": "warning",
  "perhaps-cut-off": "warning",
  leaks: "warning",
  "bitmap-in-use": "warning",
  "bitmaps-stale": "warning",
  fenced: "warning",
  "raw-outside": "warning",
  unsupported: "warning",
  unreadable: "warning",
  "owner-shut-out": "warning",
  "space-low": "warning",
  "locks-unshared": "warning",
  "workspace-copied": "warning",
  "workspace-unreadable": "warning",
  "freeze-forgotten": "warning",
  "transaction-stale": "warning",
  "change-left-beside": "warning",

  "backing-outside": "note",
  "name-absolute": "note",
  "data-file-outside": "note",
  "times-coarse": "note",
  orphan: "note",
  garbage: "note",
} as const satisfies Record<string, Weight>;

export type FindingCode = keyof typeof FINDINGS;

/** Whose commands change the very image that they are about. */
export const CHANGES_IMAGE: ReadonlySet<FindingCode> = new Set<FindingCode>([
  "corrupt-bit",
  "damaged",
  "uncounted",
  "leaks",
  "dirty-bit",
  "bitmap-in-use",
  "bitmaps-stale",
  "backing-missing",
  "backing-outside",
  "format-missing",
  "name-ambiguous",
  "name-absolute",
  "data-file-ambiguous",
  "chain-deep",
]);

/** What --fix runs: an action on the image, or the recovery of a workspace. */
export type Mend =
  | {
      readonly image: string;
      readonly format: ImageFormat;
      /** Whether it is opened without what it stands on. */
      readonly isAlone: boolean;
      readonly requestFor: (device: string) => ActionRequest;
    }
  | { readonly recovers: string; readonly image: string };

export interface Finding {
  readonly code: FindingCode;
  readonly weight: Weight;
  /** The file that it is about; of a workspace its folder. */
  readonly path: string;
  readonly device: string | null;
  /** A sentence, without a full stop. */
  readonly text: string;
  /** Of the first byte that it is about. */
  readonly offset: number | null;
  /** What the file takes on the disk, where it may be given back. */
  readonly sizeBytes: number | null;
  /** What mends it, as it is pasted into a shell; null: no command does. */
  readonly command: string | null;
  /** What --fix does about it; null: nothing, since it is somebody's to decide. */
  readonly mend: Mend | null;
}

type Parts = Pick<Finding, "path" | "text"> &
  Partial<Pick<Finding, "device" | "offset" | "sizeBytes" | "command" | "mend">>;

export function finding(code: FindingCode, parts: Parts): Finding {
  const nothing = { device: null, offset: null, sizeBytes: null, command: null, mend: null };
  return { code, weight: FINDINGS[code], ...nothing, ...parts };
}

const WEIGHTS: readonly Weight[] = ["error", "warning", "note"];
const ORDER = Object.keys(FINDINGS);

/** Worst first; of one code by file. Each once: an image may have been asked for twice. */
export function sortFindings(found: readonly Finding[]): Finding[] {
  const once = new Map(found.map((one) => [`${one.code}\0${one.path}\0${one.text}`, one]));
  return [...once.values()].toSorted(
    (a, b) =>
      WEIGHTS.indexOf(a.weight) - WEIGHTS.indexOf(b.weight) ||
      ORDER.indexOf(a.code) - ORDER.indexOf(b.code) ||
      (a.path < b.path ? -1 : a.path > b.path ? 1 : 0),
  );
}
