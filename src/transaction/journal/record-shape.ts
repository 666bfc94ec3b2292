// Whether data from a journal is a record. The digests show that nothing was lost or changed since; they
// are no signature, and anybody can compute them.
//
// Invariant: what passes here can be read as what its type says, without a further look.

import {
  type GivenUp,
  isChain,
  isCount,
  isDeviceEntry,
  isFileBeside,
  isFileMark,
  isFingerprint,
  isFlag,
  isImageFormat,
  isObject,
  isRenaming,
  isSnapshot,
  isSnapshotRef,
  isText,
  isWorker,
  listOf,
  objectOf,
  oneOf,
  orAbsent,
  orNull,
  type Shape,
  type TakenThen,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { DeviceReads } from "../../format/index.ts";
import type { Origin } from "../../storage/index.ts";
import { isNote } from "../notes/notes.ts";
import { ACTION_KINDS } from "../requests/action-kinds.ts";
import type { ActionKind, Once, PlannedFile } from "../requests/request.ts";
import type { CopyStep, LateStep, NewBacking, UpStep } from "./copy-steps.ts";
import type {
  CommitFence,
  JournalRecord,
  NamedFile,
  NewFile,
  PlannedFolder,
  PlannedReport,
  PreparedFile,
  PreparedRedo,
  StagedImagePlan,
  StoredFence,
  TableChange,
  WatchedImage,
} from "./records.ts";
import type { PlannedSnapshot, PlannedStanding } from "./planned-snapshot.ts";
import type { PlannedVolume } from "./planned-volume.ts";
import { READ_VERSIONS, type StoredValue, upgradeValues } from "./upgrade.ts";

const isKind: Shape<ActionKind> = oneOf(...ACTION_KINDS);

const isReport = objectOf<PlannedReport>({
  kind: isKind,
  device: orNull(isText),
  before: orNull(isText),
  after: orNull(isText),
  format: orNull(isImageFormat),
  files: listOf(
    objectOf<PlannedFile>({
      path: isText,
      change: oneOf("create", "reuse", "fence", "unfence", "change", "merge", "remove"),
    }),
  ),
  notes: listOf(isNote),
});

export const areReports = listOf(isReport);

const STORED_FENCE = { offset: isCount, before: isText, after: isText };

const isCommitFence = objectOf<CommitFence>({
  image: isText,
  raised: orNull(objectOf<StoredFence>(STORED_FENCE)),
  modifiedNs: orNull(isText),
  kept: orNull(objectOf<NonNullable<CommitFence["kept"]>>({ ...STORED_FENCE, unfencedSha256: isText })),
  between: orAbsent(objectOf<StoredFence>(STORED_FENCE)),
});

const STAGED_IMAGE = { image: isText, log: isText, isLast: orAbsent(isFlag) };
const isStagedImage = objectOf<StagedImagePlan>(STAGED_IMAGE);

const isRedo = objectOf<PreparedRedo>({
  ...STAGED_IMAGE,
  end: objectOf<PreparedRedo["end"]>({ position: isCount, digest: isText }),
  pages: isCount,
  changedSectors: isCount,
  freedPages: isCount,
  sizeBefore: isCount,
  sizeAfter: isCount,
  guardedBy: oneOf("fence", "digests", "owner"),
  isFenced: isFlag,
  modifiedNs: orNull(isText),
  discards: orAbsent(isFlag),
  preallocated: orAbsent(
    listOf(
      objectOf<NonNullable<PreparedRedo["preallocated"]>[number]>({
        start: isCount,
        lengthBytes: isCount,
        isFull: isFlag,
      }),
    ),
  ),
});

const isNewBacking = objectOf<NewBacking>({ path: isText, format: isImageFormat, name: isText });

const isUpStep = objectOf<UpStep>({
  until: orAbsent(objectOf<NonNullable<UpStep["until"]>>({ path: isText, format: isImageFormat })),
  onto: orNull(isNewBacking),
  leavesOutEqual: isFlag,
  isCompressed: isFlag,
  log: isText,
});

const isLateStep = objectOf<LateStep>({
  image: isText,
  log: isText,
  snapshot: orAbsent(
    objectOf<NonNullable<LateStep["snapshot"]>>({
      name: isText,
      mayRepeat: orAbsent(isFlag),
      dateSec: isCount,
      dateNsec: isCount,
    }),
  ),
  backing: orAbsent(isNewBacking),
});

const isOrigin = objectOf<Origin>({
  processes: isText,
  login: orNull(isText),
  loginUser: orNull(isText),
  service: orNull(isText),
  sessions: listOf(objectOf<Origin["sessions"][number]>({ id: isCount, started: orNull(isText) })),
  ancestors: listOf(objectOf<Origin["ancestors"][number]>({ pid: isCount, started: isText })),
});

const isNamedFile = objectOf<NamedFile>({ path: isText, fingerprint: isFingerprint });

type RecordOf<Type extends JournalRecord["type"]> = Extract<JournalRecord, { readonly type: Type }>;

const SHAPES: { readonly [Type in JournalRecord["type"]]: Shape<RecordOf<Type>> } = {
  begin: objectOf<RecordOf<"begin">>({
    type: oneOf("begin"),
    version: isCount,
    id: isText,
    name: orNull(isText),
    onError: oneOf("abort", "keep"),
    implicit: isFlag,
    owned: isFlag,
    owner: orNull(isWorker),
    worker: orNull(isWorker),
    mark: orNull(isFileMark),
    whole: orNull(isCount),
    started: isText,
    pid: isCount,
    user: isText,
    boot: isText,
    origin: orNull(isOrigin),
  }),
  provision: objectOf<RecordOf<"provision">>({
    type: oneOf("provision"),
    statement: isCount,
    volumes: listOf(
      objectOf<PlannedVolume>({ device: isText, path: isText, sizeBytes: isCount, command: listOf(isText) }),
    ),
  }),
  plan: objectOf<RecordOf<"plan">>({
    type: oneOf("plan"),
    statement: isCount,
    kind: isKind,
    devices: listOf(isText),
    reports: listOf(isReport),
    newFiles: listOf(objectOf<NewFile>({ path: isText, staging: isText })),
    changes: listOf(objectOf<TableChange>({ device: isText, after: orNull(isDeviceEntry) })),
    allowPaths: listOf(isText),
    renewable: isFlag,
    renews: listOf(isText),
    watched: listOf(
      objectOf<WatchedImage>({ device: orNull(isText), image: isText, fingerprint: isFingerprint }),
    ),
    redo: listOf(isStagedImage),
    copies: listOf(
      objectOf<CopyStep>({
        kind: oneOf("sync", "merge", "up", "fill"),
        from: isText,
        fromFormat: orAbsent(isImageFormat),
        files: listOf(isText),
        into: isText,
        format: isImageFormat,
        up: orAbsent(isUpStep),
        empties: orAbsent(isFlag),
      }),
    ),
    late: listOf(isLateStep),
    removes: listOf(isText),
    givesUp: orAbsent(
      listOf(
        objectOf<GivenUp>({
          device: isText,
          images: listOf(isText),
          snapshots: listOf(
            objectOf<GivenUp["snapshots"][number]>({ number: isCount, devices: listOf(isText) }),
          ),
          renewed: orAbsent(listOf(isSnapshot)),
          taken: orAbsent(
            objectOf<TakenThen>({
              first: isCount,
              snapshots: listOf(
                objectOf<TakenThen["snapshots"][number]>({
                  chain: isChain,
                  below: orNull(isCount),
                  isMade: orAbsent(isFlag),
                }),
              ),
            }),
          ),
          marks: orAbsent(
            listOf(
              objectOf<NonNullable<GivenUp["marks"]>[number]>({
                image: isText,
                sealedBy: orAbsent(isCount),
                isMade: orAbsent(isFlag),
              }),
            ),
          ),
        }),
      ),
    ),
    renames: orAbsent(listOf(isRenaming)),
    standing: orAbsent(
      objectOf<PlannedStanding>({
        position: isCount,
        undone: listOf(isCount),
        dropped: listOf(isCount),
        restored: listOf(isSnapshotRef),
        renewed: orAbsent(listOf(isSnapshot)),
      }),
    ),
    snapshot: orAbsent(
      objectOf<PlannedSnapshot>({
        name: orNull(isText),
        message: orNull(isText),
        devices: listOf(isText),
        files: orAbsent(listOf(isFileBeside)),
      }),
    ),
    currentFolder: orAbsent(isText),
    folders: listOf(objectOf<PlannedFolder>({ path: isText, mark: isFileMark })),
  }),
  prepared: objectOf<RecordOf<"prepared">>({
    type: oneOf("prepared"),
    statement: isCount,
    files: listOf(
      objectOf<PreparedFile>({ path: isText, fingerprint: isFingerprint, contentSha256: orNull(isText) }),
    ),
    redo: listOf(isRedo),
    reads: orAbsent(
      listOf(
        objectOf<DeviceReads>({
          image: isText,
          runs: listOf(isCount),
          endBytes: orAbsent(isCount),
          sha256: isText,
        }),
      ),
    ),
  }),
  copied: objectOf<RecordOf<"copied">>({
    type: oneOf("copied"),
    statement: isCount,
    path: isText,
    offset: isCount,
  }),
  parked: objectOf<RecordOf<"parked">>({ type: oneOf("parked"), statement: isCount }),
  resumed: objectOf<RecordOf<"resumed">>({ type: oneOf("resumed"), statement: isCount }),
  done: objectOf<RecordOf<"done">>({
    type: oneOf("done"),
    statement: isCount,
    named: orAbsent(listOf(isNamedFile)),
  }),
  savepoint: objectOf<RecordOf<"savepoint">>({ type: oneOf("savepoint"), name: isText }),
  undo: objectOf<RecordOf<"undo">>({ type: oneOf("undo"), from: isCount }),
  renewing: objectOf<RecordOf<"renewing">>({ type: oneOf("renewing"), from: orNull(isCount) }),
  undone: objectOf<RecordOf<"undone">>({ type: oneOf("undone"), from: isCount }),
  fencing: objectOf<RecordOf<"fencing">>({ type: oneOf("fencing"), fences: listOf(isCommitFence) }),
  commit: objectOf<RecordOf<"commit">>({
    type: oneOf("commit"),
    madeOn: isCount,
    committed: isText,
    summary: isText,
    once: orAbsent(objectOf<Once>({ id: isText, digest: isText })),
    settled: orAbsent(listOf(isText)),
  }),
  staged: objectOf<RecordOf<"staged">>({ type: oneOf("staged"), statement: isCount, redo: isRedo }),
  applied: objectOf<RecordOf<"applied">>({ type: oneOf("applied"), image: isText }),
  abort: objectOf<RecordOf<"abort">>({ type: oneOf("abort") }),
};

/** E_UNSUPPORTED where the first value begins a journal of another version. */
export function assertVersion(value: unknown, file: string): void {
  const { type, version } = isObject(value) ? value : {};
  if (type !== "begin" || READ_VERSIONS.has(version)) return;
  throw new ImgtxError(
    "E_UNSUPPORTED",
    `the journal has version ${String(version)}; this imgtx reads ${[...READ_VERSIONS].join(", ").replace(/, (?=\d+$)/, " and ")}`,
    {
      image: file,
      hint: "finish the transaction with the imgtx that began it",
    },
  );
}

/** The records of the present version. E_JOURNAL for what is none. */
export function readRecords(values: readonly StoredValue[], file: string): JournalRecord[] {
  return upgradeValues(values, file).map(({ value, offset }) => assertRecord(value, file, offset));
}

export function assertRecord(value: unknown, file: string, offset: number): JournalRecord {
  const { type } = isObject(value) ? value : {};
  const shape = Object.entries(SHAPES).find(([name]) => name === type)?.[1];
  if (shape?.(value)) return value;
  throw new ImgtxError("E_JOURNAL", "the journal holds a record that imgtx does not write", {
    image: file,
    offset,
    hint: "look where the journal comes from; imgtx touches nothing of this transaction until then",
  });
}
