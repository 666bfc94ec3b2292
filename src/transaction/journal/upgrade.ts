// Journals of earlier versions, read as this one writes them: what they don't say is filled in here, and nowhere else.
//
// Invariant: what is filled in says no more than the older imgtx did. Where that is not known, it means doubt.

import { isCount, isObject } from "../../device/index.ts";
import { JOURNAL_VERSION, type JournalRecord } from "./records.ts";

/** Versions that can be read, the present one among them. */
export const READ_VERSIONS: ReadonlySet<unknown> = new Set([1, 2, JOURNAL_VERSION]);

/** What may be a record: nobody has looked at its fields yet. */
type Fields = Readonly<Record<string, unknown>>;

/** Fields of a record that an older imgtx did not write: what it does not say is not known. */
export function fillIn(record: Fields): Fields {
  switch (record["type"]) {
    case "begin":
      return fillInBegin(record);
    case "plan":
      // The folders of what it plans were not kept. Bitmaps were patches of bytes.
      return {
        ...record,
        ...("folders" in record ? {} : { folders: [] }),
        ...("redo" in record ? {} : { redo: [] }),
      };
    case "commit":
      return fillInCommit(record);
    case "prepared":
      return fillInPrepared(record);
    default:
      return record;
  }
}

/** Nobody joins it unasked, and its locks alone tell whether somebody works on it. */
function fillInBegin(begin: Fields): Fields {
  // The type stays in front: damage is told by what records look like.
  return {
    ...begin,
    ...("owner" in begin ? {} : { owner: null }),
    ...("worker" in begin ? {} : { worker: null }),
    ...("mark" in begin ? {} : { mark: null }),
    ...("whole" in begin ? {} : { whole: null }),
    ...("origin" in begin ? {} : { origin: null }),
  };
}

/** A mark of an imgtx that gave the next number at once: that is the generation which the mark makes. */
function fillInCommit(commit: Fields): Fields {
  const { generation, ...others } = commit;
  const isEarlier = !("madeOn" in others) && isCount(generation) && generation !== 0;
  return isEarlier ? { ...others, madeOn: generation - 1 } : commit;
}

function fillInPrepared(prepared: Fields): Fields {
  const { files } = prepared;
  if (!Array.isArray(files)) return prepared;
  return {
    ...prepared,
    ...("redo" in prepared ? {} : { redo: [] }),
    files: files.map((file: unknown) => (isObject(file) ? { contentSha256: null, ...file } : file)),
  };
}

/** The records as the present version has them. */
export function upgradeRecords(records: readonly JournalRecord[]): JournalRecord[] {
  const [begin] = records;
  if (begin?.type !== "begin" || begin.version === JOURNAL_VERSION) return [...records];
  const whole = begin.version === 1 ? sayWherePatching(records) : records;
  return whole.map((record) => (record.type === "begin" ? { ...record, version: JOURNAL_VERSION } : record));
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
