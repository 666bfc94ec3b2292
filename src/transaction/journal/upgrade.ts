// Journals of earlier versions, read as this one writes them: what they don't say is filled in here, and nowhere else.
//
// Invariants
// - What is filled in says no more than the older imgtx did. Where that is not known, it means doubt.
// - Up to version 3 a statement changed images by patches: bytes before and after. A fence was one that was written
//   before the mark (`prepare`), once the journal had said so (`patching`); its lifting was one after the mark
//   (`commit`). They are read as fences of the commit: what was raised without a mark is taken back, with the whole
//   transaction, and what was to be lifted is lifted when the table has moved. Bitmaps, which version 2 wrote as patches,
//   are refused by name once they may have been begun.

import { isCount, isObject, isText, listOf, objectOf, oneOf, orNull } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { type CommitFence, JOURNAL_VERSION, type StoredFence } from "./records.ts";
import { isStoredFence } from "./stored-fence.ts";

/** Versions that can be read, the present one among them. */
export const READ_VERSIONS: ReadonlySet<unknown> = new Set([1, 2, 3, 4, 5, JOURNAL_VERSION]);

/** What may be a record: nobody has looked at its fields yet. */
type Fields = Readonly<Record<string, unknown>>;

export interface StoredValue {
  readonly value: unknown;
  /** Of its line in the file. */
  readonly offset: number;
}

interface Patch extends StoredFence {
  readonly image: string;
  readonly modifiedNs: string | null;
  readonly when: "prepare" | "commit";
}

const arePatches = listOf(
  objectOf<Patch>({
    image: isText,
    offset: isCount,
    before: isText,
    after: isText,
    modifiedNs: orNull(isText),
    when: oneOf("prepare", "commit"),
  }),
);

/** The values of all lines as the present version has them. E_UNSUPPORTED where an image may be changed by halves. */
export function upgradeValues(values: readonly StoredValue[], file: string): StoredValue[] {
  const version = fieldsOf(values[0])["version"];
  const filled = values.flatMap(({ value, offset }) =>
    fieldsOf({ value })["type"] === "patching"
      ? []
      : [{ value: isObject(value) ? fillIn(value) : value, offset }],
  );
  if (version === JOURNAL_VERSION) return filled;
  const { fences, isAborted } = findFences(values, version, file);
  if (fences.length === 0 && !isAborted) return filled;
  const end = filled.findIndex((one) => ["commit", "abort"].includes(String(fieldsOf(one)["type"])));
  const [before, after] = end === -1 ? [filled, []] : [filled.slice(0, end), filled.slice(end)];
  const offset = filled.at(-1)?.offset ?? 0;
  const earlier = before.map(fieldsOf).findLast(({ type }) => type === "fencing")?.["fences"];
  const all = [...(Array.isArray(earlier) ? (earlier as unknown[]) : []), ...fences];
  const abort = isAborted && after.length === 0 ? [{ value: { type: "abort" }, offset }] : after;
  return [...before, { value: { type: "fencing", fences: all }, offset }, ...abort];
}

/** What the patches of the statements come to, and whether the transaction can only be taken back. */
function findFences(
  values: readonly StoredValue[],
  version: unknown,
  file: string,
): { readonly fences: CommitFence[]; readonly isAborted: boolean } {
  const statements = readStatements(values.map(fieldsOf), version);
  const isCommitted = values.some((one) => fieldsOf(one)["type"] === "commit");
  const counting = statements.filter(({ isUndoing }) => !(isCommitted && isUndoing));
  const touched = counting.filter(({ isBegun }) => isCommitted || isBegun).flatMap(({ patches }) => patches);
  const others = touched.filter(({ when }) => when === "commit");
  if (!others.every((patch) => isStoredFence(inverse(patch)))) throw cannotGoOn(file, version);
  const fences = isCommitted
    ? others.map((patch) => ({ ...patch, ...inverse(patch) }))
    : touched.filter(({ when }) => when === "prepare");
  return {
    fences: fences.map(({ image, modifiedNs, offset, before, after }) => ({
      image,
      raised: { offset, before, after },
      modifiedNs,
      // Where the mark is lost, the history tells that a device keeps it.
      kept: isCommitted ? null : { offset, before, after, unfencedSha256: "" },
    })),
    isAborted: !isCommitted && counting.some(({ patches, isParked }) => patches.length > 0 && !isParked),
  };
}

interface PatchingStatement {
  readonly patches: readonly Patch[];
  /** Whether its `prepare` patches may have been written. Version 1 never said when it began to. */
  isBegun: boolean;
  isParked: boolean;
  isUndoing: boolean;
}

/** Those that are not undone. */
function readStatements(records: readonly Fields[], version: unknown): PatchingStatement[] {
  let statements: PatchingStatement[] = [];
  const isSilent = version === 1;
  for (const { type, from, patches } of records) {
    const last = statements.at(-1);
    if (type === "plan") {
      const known = arePatches(patches) ? patches : [];
      statements.push({ patches: known, isBegun: isSilent, isParked: false, isUndoing: false });
    } else if (type === "patching" && last) last.isBegun = true;
    // Its devices are free from then on: what looks like its patches is somebody else's.
    else if (type === "parked" && last) Object.assign(last, { isBegun: false, isParked: true });
    else if (type === "resumed" && last) Object.assign(last, { isBegun: isSilent, isParked: false });
    else if (type === "undo" && isCount(from)) for (const one of statements.slice(from)) one.isUndoing = true;
    else if (type === "undone" && isCount(from)) {
      statements = statements.map((one, index) => (index < from ? one : { ...one, patches: [] }));
    }
  }
  return statements;
}

function inverse({ offset, before, after }: StoredFence): StoredFence {
  return { offset, before: after, after: before };
}

function cannotGoOn(file: string, version: unknown): ImgtxError {
  return new ImgtxError(
    "E_UNSUPPORTED",
    `an imgtx whose journals have version ${String(version)} may be amid writing a bitmap into an image, in a way that this one does not know`,
    { image: file, hint: "finish the transaction with the imgtx that began it" },
  );
}

function fieldsOf(one: Pick<StoredValue, "value"> | undefined): Fields {
  return isObject(one?.value) ? one.value : {};
}

/** Fields of a record that an older imgtx did not write: what it does not say is not known. */
function fillIn(record: Fields): Fields {
  switch (record["type"]) {
    case "begin":
      return fillInBegin(record);
    case "plan":
      return fillInPlan(record);
    case "commit":
      return fillInCommit(record);
    case "prepared":
      return fillInPrepared(record);
    case "fencing":
      return fillInFencing(record);
    default:
      return record;
  }
}

/** Notes were sentences. */
function withNotes({ reports }: Fields): Fields {
  if (!Array.isArray(reports)) return {};
  return {
    reports: reports.map((report: unknown) =>
      isObject(report) && Array.isArray(report["notes"])
        ? {
            ...report,
            notes: report["notes"].map((note: unknown) =>
              isText(note) ? { code: "said", text: note } : note,
            ),
          }
        : report,
    ),
  };
}

/** A changes overlay was a new file that is merged, by the name of the image. Nobody had looked at it once it was made. */
function withCopies(plan: Fields): Fields {
  const { newFiles } = plan;
  if ("copies" in plan || !Array.isArray(newFiles)) return plan;
  const files = newFiles.filter(isObject);
  return {
    ...plan,
    newFiles: files.map(({ path, staging, mergesAs }) => ({ path: mergesAs ? staging : path, staging })),
    copies: files.flatMap(({ path, staging, mergesAs }) =>
      mergesAs ? [{ from: staging, into: path, format: mergesAs }] : [],
    ),
  };
}

/** Up to version 4 copied was only what a statement had made for it. */
function withKinds(plan: Fields): Fields {
  const { copies } = plan;
  if (!Array.isArray(copies)) return plan;
  const fill = (copy: Fields): Fields => ({ kind: "sync", files: [copy["from"]], ...copy });
  return { ...plan, copies: copies.map((copy: unknown) => (isObject(copy) ? fill(copy) : copy)) };
}

/** Nobody joins it unasked, and its locks alone tell whether somebody works on it. */
function fillInBegin(begin: Fields): Fields {
  // The type stays in front: damage is told by what records look like.
  return {
    ...begin,
    ...(READ_VERSIONS.has(begin["version"]) ? { version: JOURNAL_VERSION } : {}),
    ...("owner" in begin ? {} : { owner: null }),
    ...("worker" in begin ? {} : { worker: null }),
    ...("mark" in begin ? {} : { mark: null }),
    ...("whole" in begin ? {} : { whole: null }),
    ...("origin" in begin ? {} : { origin: null }),
  };
}

/** The folders of what it plans were not kept. */
function fillInPlan({ patches, ...plan }: Fields): Fields {
  if (patches !== undefined && !arePatches(patches)) return { patches };
  return {
    ...withKinds(withCopies(plan)),
    ...withNotes(plan),
    ...("folders" in plan ? {} : { folders: [] }),
    ...("removes" in plan ? {} : { removes: [] }),
    ...("late" in plan ? {} : { late: [] }),
    ...("redo" in plan ? {} : { redo: [] }),
  };
}

/** A mark of an imgtx that gave the next number at once: that is the generation which the mark makes. */
function fillInCommit(commit: Fields): Fields {
  const { generation, ...others } = commit;
  const isEarlier = !("madeOn" in others) && isCount(generation) && generation !== 0;
  return isEarlier ? { ...others, madeOn: generation - 1 } : commit;
}

function fillInPrepared(prepared: Fields): Fields {
  const { files, redo = [] } = prepared;
  if (!Array.isArray(files) || !Array.isArray(redo)) return prepared;
  return {
    ...prepared,
    redo: redo.map((one: unknown) => (isObject(one) ? { isFenced: false, modifiedNs: null, ...one } : one)),
    files: files.map((file: unknown) => (isObject(file) ? { contentSha256: null, ...file } : file)),
  };
}

/** Fences that images had until the table had moved, or their redo logs were applied. */
function fillInFencing({ patches, ...fencing }: Fields): Fields {
  if (!arePatches(patches)) return { ...fencing, patches };
  const fences = patches.map(
    ({ image, modifiedNs, offset, before, after }): CommitFence => ({
      image,
      raised: { offset, before, after },
      modifiedNs,
      kept: null,
    }),
  );
  return { ...fencing, fences };
}
