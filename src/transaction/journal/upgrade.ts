// Journals of earlier versions, read as this one writes them: what they don't say is filled in here, and nowhere else.
//
// Invariant: what is filled in says no more than the older imgtx did. Where that is not known, it means doubt.

import { JOURNAL_VERSION, type JournalRecord } from "./records.ts";

/** Versions that can be read, the present one among them. */
export const READ_VERSIONS: ReadonlySet<unknown> = new Set([1, JOURNAL_VERSION]);

/** The records as the present version has them. */
export function upgradeRecords(records: readonly JournalRecord[]): JournalRecord[] {
  const [begin] = records;
  if (begin?.type !== "begin" || begin.version === JOURNAL_VERSION) return [...records];
  return sayWherePatching(records).map((record) =>
    record.type === "begin" ? { ...record, version: JOURNAL_VERSION } : record,
  );
}

/**
 * Version 1 never said when it began to write `prepare` patches: it may have done so from the plan on. Its devices
 * were held by then. Not so those of a parked copy: what looks like its patches there is somebody else's.
 */
function sayWherePatching(records: readonly JournalRecord[]): JournalRecord[] {
  const patching = new Set<number>();
  return records.flatMap((record): JournalRecord[] => {
    if (record.type === "plan" && record.patches.some(({ when }) => when === "prepare")) {
      patching.add(record.statement);
    }
    const begins = record.type === "plan" || record.type === "resumed";
    return begins && patching.has(record.statement)
      ? [record, { type: "patching", statement: record.statement }]
      : [record];
  });
}
