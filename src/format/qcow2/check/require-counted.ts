// Whether an image may be written to: everything that is in use is counted as used, and is there.
//
// Invariants
// - An allocation believes the refcounts. A cluster in use whose refcount is too low would be given away, and
//   new data or tables would land on a guest's (QEMU does that). So all that refers to a cluster is compared
//   with its refcount before the first byte is written: L2 tables of the active layer and of the internal
//   snapshots, bitmaps, and the metadata itself.
// - Refused is what endangers data, and nothing else. Leaks are none of it, and neither is a COPIED flag that
//   lacks: old images have either.
//
// It costs a read of the metadata, as a check does. Looking only at the clusters that are about to be given
// away would need all references just the same.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { CutOff } from "../../chain/chain-link.ts";
import { describeCutOff } from "../../chain/missing-tables.ts";
import { checkQcow2 } from "./check.ts";
import type { Danger } from "./check-findings.ts";
import { shellQuote } from "../../quote-name.ts";

export function cutOffHint(image: string): string {
  return `get the rest of the file, or a whole copy of it; ${salvage(image)} copies what is there`;
}

/** For what no repair brings back. */
export function salvageHint(image: string): string {
  return `restore it from a copy, or save what can be read with ${salvage(image)}`;
}

function salvage(image: string): string {
  return `\`imgtx img convert --salvage -O qcow2 ${shellQuote(image)} COPY\``;
}

/** What is thrown for an image that can't be checked to its end. */
const ENDS_CHECK: ReadonlySet<string> = new Set(["E_CORRUPT", "E_UNSUPPORTED"]);

/** E_CORRUPT where writing to the qcow2 image in the file could destroy what it holds. */
export async function requireCounted(file: StorageFile, path: string): Promise<void> {
  const dangers = new Dangers();
  const onDanger = (danger: Danger): void => {
    dangers.add(danger);
  };
  await checkQcow2(file, () => undefined, undefined, { onDanger });
  const { sizeBytes } = await file.stat();
  const error = dangers.toError(path, sizeBytes);
  if (error !== undefined) throw error;
}

/**
 * What of a qcow2 image its file does not have; undefined where all is there, or nothing can be told
 * of it any more.
 */
export async function findMissing(file: StorageFile): Promise<CutOff | undefined> {
  const dangers = new Dangers();
  const onDanger = (danger: Danger): void => {
    dangers.add(danger);
  };
  try {
    await checkQcow2(file, () => undefined, undefined, { onDanger });
  } catch (error) {
    // What the check has found before it had to end is true all the same. A disk that fails is another matter.
    if (!(error instanceof ImgtxError && ENDS_CHECK.has(error.code))) throw error;
  }
  const { sizeBytes } = await file.stat();
  return dangers.findMissing(sizeBytes);
}

/** The first of each kind, and how many or how far. */
class Dangers {
  #uncounted = 0;
  #firstUncounted: (Danger & { kind: "uncounted" }) | undefined;
  #missing: { start: number; end: number } | undefined;
  #firstLine: string | undefined;

  add(danger: Danger): void {
    if (danger.kind === "uncounted") {
      this.#uncounted += 1;
      this.#firstUncounted ??= danger;
    } else if (danger.kind === "missing") {
      const { start, end } = this.#missing ?? danger;
      this.#missing = { start: Math.min(start, danger.start), end: Math.max(end, danger.end) };
    } else this.#firstLine ??= danger.line;
  }

  findMissing(sizeBytes: number): CutOff | undefined {
    // A guest may have made the file longer meanwhile.
    if (this.#missing === undefined || this.#missing.end <= sizeBytes) return undefined;
    return { ...this.#missing, sizeBytes };
  }

  toError(image: string, sizeBytes: number): ImgtxError | undefined {
    const missing = this.findMissing(sizeBytes);
    if (missing) {
      return new ImgtxError("E_CORRUPT", `it can't be written to: ${describeCutOff(missing)}`, {
        image,
        hint: cutOffHint(image),
      });
    }
    const hint = `\`imgtx img check -r all ${shellQuote(image)}\` repairs it`;
    if (this.#firstUncounted !== undefined) {
      const { offset, count } = this.#firstUncounted;
      const place = `0x${offset.toString(16)}`;
      const what =
        count === 0
          ? `the cluster at ${place} is in use, and its refcount is 0`
          : `more refers to the cluster at ${place} than its refcount of ${count} says`;
      const others = this.#uncounted === 1 ? "" : `, as with ${this.#uncounted - 1} more`;
      return new ImgtxError(
        "E_CORRUPT",
        `it can't be written to: ${what}${others}; new data would land on what is there`,
        { image, offset, field: "refcount", hint },
      );
    }
    if (this.#firstLine === undefined) return undefined;
    return new ImgtxError(
      "E_CORRUPT",
      `it can't be written to, a check finds it damaged: ${this.#firstLine}`,
      {
        image,
        hint,
      },
    );
  }
}
