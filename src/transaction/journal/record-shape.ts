// Whether data from a journal is a record. The digests show that nothing was lost or changed since; they
// are no signature, and anybody can compute them.
//
// Invariant: what passes here can be read as what its type says, without a further look.

import {
  isCount,
  isDeviceEntry,
  isFileMark,
  isFingerprint,
  isFlag,
  isText,
  listOf,
  objectOf,
  oneOf,
  orAbsent,
  orNull,
  type Shape,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { JournalRecord } from "./records.ts";
import { fillIn, READ_VERSIONS } from "./upgrade.ts";

const isReport = objectOf({
  kind: isText,
  device: orNull(isText),
  before: orNull(isText),
  after: orNull(isText),
  format: orNull(isText),
  files: listOf(objectOf({ path: isText, change: oneOf("create", "reuse", "fence", "unfence", "change") })),
  notes: listOf(isText),
});

const isPatch = objectOf({
  image: isText,
  offset: isCount,
  before: isText,
  after: isText,
  modifiedNs: orNull(isText),
  when: oneOf("prepare", "commit"),
});

const isOrigin = objectOf({
  processes: isText,
  login: orNull(isText),
  loginUser: orNull(isText),
  service: orNull(isText),
  sessions: listOf(objectOf({ id: isCount, started: orNull(isText) })),
  ancestors: listOf(objectOf({ pid: isCount, started: isText })),
});

const SHAPES: Readonly<Record<JournalRecord["type"], Shape>> = {
  begin: objectOf({
    id: isText,
    name: orNull(isText),
    onError: oneOf("abort", "keep"),
    implicit: isFlag,
    owned: isFlag,
    mark: orNull(isFileMark),
    started: isText,
    pid: isCount,
    user: isText,
    boot: isText,
    origin: orNull(isOrigin),
  }),
  plan: objectOf({
    statement: isCount,
    kind: isText,
    devices: listOf(isText),
    reports: listOf(isReport),
    newFiles: listOf(objectOf({ path: isText, staging: isText, mergesAs: orNull(oneOf("qcow2", "raw")) })),
    changes: listOf(objectOf({ device: isText, after: orNull(isDeviceEntry) })),
    allowPaths: listOf(isText),
    renewable: isFlag,
    renews: listOf(isText),
    watched: listOf(objectOf({ device: orNull(isText), image: isText, fingerprint: isFingerprint })),
    patches: listOf(isPatch),
    folders: listOf(objectOf({ path: isText, mark: isFileMark })),
  }),
  prepared: objectOf({
    statement: isCount,
    files: listOf(objectOf({ path: isText, fingerprint: isFingerprint, contentSha256: orNull(isText) })),
  }),
  copied: objectOf({ statement: isCount, path: isText, offset: isCount }),
  parked: objectOf({ statement: isCount }),
  resumed: objectOf({ statement: isCount }),
  patching: objectOf({ statement: isCount }),
  done: objectOf({
    statement: isCount,
    named: orAbsent(listOf(objectOf({ path: isText, fingerprint: isFingerprint }))),
  }),
  savepoint: objectOf({ name: isText }),
  undo: objectOf({ from: isCount }),
  undone: objectOf({ from: isCount }),
  fencing: objectOf({ patches: listOf(isPatch) }),
  commit: objectOf({ madeOn: isCount, committed: isText, summary: isText }),
  abort: objectOf({}),
};

/** E_JOURNAL for what is no record; E_UNSUPPORTED where the first one begins a journal of another version. */
export function assertRecord(
  value: unknown,
  place: { readonly isFirst: boolean; readonly file: string; readonly offset: number },
): JournalRecord {
  const { type, version } = objectOf({})(value) ? (value as { type?: unknown; version?: unknown }) : {};
  if (place.isFirst && type === "begin" && !READ_VERSIONS.has(version)) {
    throw new ImgtxError(
      "E_UNSUPPORTED",
      `the journal has version ${String(version)}; this imgtx reads ${[...READ_VERSIONS].join(" and ")}`,
      {
        image: place.file,
        hint: "finish the transaction with the imgtx that began it",
      },
    );
  }
  const shape = Object.entries(SHAPES).find(([name]) => name === type)?.[1];
  const record = fillIn(type, value as object);
  if (shape?.(record)) return record as JournalRecord;
  throw new ImgtxError("E_JOURNAL", "the journal holds a record that imgtx does not write", {
    image: place.file,
    offset: place.offset,
    hint: "look where the journal comes from; imgtx touches nothing of this transaction until then",
  });
}
