// Small journals for tests: their records, and a real folder to keep them in.

import { mkdirSync } from "node:fs";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import type { Workspace } from "../../../src/device/index.ts";
import type { BeginRecord, PlanRecord } from "../../../src/transaction/journal/index.ts";
import { JOURNAL_VERSION, type JournalRecord } from "../../../src/transaction/journal/records.ts";
import { encodeRecord, FIRST_DIGEST } from "../../../src/transaction/journal/record-line.ts";
import { makeFolder } from "../temporary-folder.ts";

export const ID = "abcdefghij";

export const BEGIN: BeginRecord = {
  type: "begin",
  version: JOURNAL_VERSION,
  id: ID,
  name: null,
  onError: "keep",
  implicit: false,
  owned: false,
  owner: null,
  worker: null,
  mark: null,
  whole: null,
  started: "2026-01-02T03:04:05.678Z",
  pid: 42,
  user: "operator",
  boot: "00000000-0000-0000-0000-000000000000",
  origin: null,
};

export const FINGERPRINT = {
  sizeBytes: 4096,
  modifiedNs: "1795460438310460166",
  inode: "17",
  bornNs: "1795460438310460165",
  headerSha256: null,
};

/** A plan of one new file on one device, in stored form where stored. */
export function planRecord(statement: number, folder = ""): PlanRecord {
  const path = `${folder}a${statement}.qcow2`;
  return {
    type: "plan",
    statement,
    kind: "snapshot",
    devices: ["vda"],
    reports: [],
    newFiles: [{ path, staging: `${folder}.imgtx-${ID}-${statement}-0` }],
    changes: [],
    allowPaths: [],
    renewable: false,
    renews: [],
    watched: [],
    redo: [],
    copies: [],
    late: [],
    removes: [],
    folders: [],
  };
}

export function preparedRecord(statement: number, folder = ""): JournalRecord {
  const files = [{ path: `${folder}a${statement}.qcow2`, fingerprint: FINGERPRINT, contentSha256: null }];
  return { type: "prepared", statement, files, redo: [] };
}

/** Any value as a chained line, a record or not. */
export function encodeLines(values: readonly unknown[]): Uint8Array[] {
  let digest = FIRST_DIGEST;
  return values.map((value) => {
    const encoded = encodeRecord(JSON.stringify(value), digest);
    digest = encoded.digest;
    return encoded.line;
  });
}

export function encodeJournal(values: readonly unknown[]): Uint8Array {
  return Buffer.concat(encodeLines(values));
}

/** A folder with room for journals: as much of a workspace as they need. */
export function makeJournalFolder(storage: Storage = makeNodeStorage()): Workspace {
  const root = makeFolder();
  mkdirSync(`${root}/.imgtx/journal`, { recursive: true });
  return { storage, root };
}

export function journalPath(workspace: Workspace): string {
  return `${workspace.root}/.imgtx/journal/${ID}.journal`;
}
