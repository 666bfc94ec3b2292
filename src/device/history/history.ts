// The history: closed generations, a file each, most of them as the difference from the next one.
//
// Invariants
// - A generation is read back from the nearest later one that is known whole: one that the history has whole, or the present.
//   Where something between the two is lost, it is read forward from an earlier whole one. So a file that is lost or damaged
//   takes its own generation away, and no other, as long as there is a whole one on both sides.
// - What can't be told is said, and never guessed.

import { ImgtxError, unlessItFails } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { DeviceTable, TableHead } from "../table/device-table.ts";
import {
  decodeGeneration,
  encodeGeneration,
  encodeNext,
  headOf,
  isTableOf,
  knowsTheSame,
  renewedGeneration,
  stepBack,
  stepOn,
  type StoredGeneration,
  storedGenerations,
  withClosingLooks,
} from "../table/generation-file.ts";
import { readWholeFile } from "../workspace/replace-file.ts";
import { pathsOf, TABLE_LIMIT_BYTES, type Workspace } from "../workspace/workspace.ts";

/**
 * Numbers of the generations before the table's that the history keeps, oldest first. A crash amid a commit
 * may have left the table's own there: that one is not closed.
 */
export async function listHistory(workspace: Workspace, table: DeviceTable): Promise<number[]> {
  return (await listStoredGenerations(workspace)).filter((generation) => generation < table.generation);
}

/** Numbers of all generations that the history has, oldest first. */
export async function listStoredGenerations(workspace: Workspace): Promise<number[]> {
  const { history } = pathsOf(workspace);
  if ((await workspace.storage.statLink(history))?.kind !== "folder") return [];
  const names = await workspace.storage.readFolder(history);
  return names
    .flatMap((name) => /^(\d{6,15})\.json$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
}

export function historyPath(workspace: Workspace, generation: number): string {
  return `${pathsOf(workspace).history}/${String(generation).padStart(6, "0")}.json`;
}

export interface HistoryReads {
  /**
   * A generation as it closed. Undefined where the history does not have it; E_CORRUPT where its file, or what it is known
   * by, is damaged.
   */
  read(generation: number): Promise<DeviceTable | undefined>;
  /** The file of it alone, with what that says of itself. Undefined and E_CORRUPT as of read. */
  file(
    generation: number,
  ): Promise<{ readonly head: TableHead; readonly stored: StoredGeneration } | undefined>;
  /** The same in its parts: its table as it was in place, and its file. */
  find(
    generation: number,
  ): Promise<{ readonly table: DeviceTable; readonly stored: StoredGeneration } | undefined>;
}

/** A later generation than those that are read, the present one as a rule. Undefined: there is none to rely on. */
type Later = DeviceTable | undefined;

/** Reads each file once. */
export function readingHistory(workspace: Workspace, later: Later): HistoryReads {
  const files = new Map<number, Promise<StoredGeneration | undefined>>();
  const tables = new Map<number, DeviceTable>(later && [[later.generation, later]]);
  const fileOf = async (generation: number): Promise<StoredGeneration | undefined> => {
    const known = files.get(generation) ?? readStored(workspace, generation);
    files.set(generation, known);
    return await known;
  };
  const find: HistoryReads["find"] = async (generation) => {
    const stored = await fileOf(generation);
    if (!stored) return undefined;
    const table =
      (await readBack(generation, fileOf, tables)) ?? (await readForward(generation, stored, fileOf));
    if (!table) throw damaged(workspace, generation, "can't be told: those that it is known by are lost");
    tables.set(generation, table);
    return { table, stored };
  };
  return {
    find,
    async file(generation) {
      const stored = await fileOf(generation);
      return stored && { head: headOf(stored), stored };
    },
    async read(generation) {
      const found = await find(generation);
      return found && withClosingLooks(found.table, found.stored);
    },
  };
}

/** The same of one alone. */
export async function readGeneration(
  workspace: Workspace,
  generation: number,
  later: Later,
): Promise<DeviceTable | undefined> {
  return await readingHistory(workspace, later).read(generation);
}

type FileOf = (generation: number) => Promise<StoredGeneration | undefined>;

/** From the nearest later generation that is known, which it adds those between to. */
async function readBack(
  generation: number,
  fileOf: FileOf,
  tables: Map<number, DeviceTable>,
): Promise<DeviceTable | undefined> {
  const steps: StoredGeneration[] = [];
  let at = generation;
  let table = tables.get(at);
  while (!table) {
    const stored = await unlessItFails(() => fileOf(at), ["E_CORRUPT"]);
    if (!stored) return undefined;
    if (stored.kind === "whole") ({ table } = stored);
    else {
      steps.push(stored);
      at += 1;
      table = tables.get(at);
    }
  }
  for (const stored of steps.toReversed()) {
    table = stepBack(stored, table);
    if (!table) return undefined;
    tables.set(table.generation, table);
  }
  return table;
}

/** From the nearest whole generation before it. */
async function readForward(
  generation: number,
  own: StoredGeneration,
  fileOf: FileOf,
): Promise<DeviceTable | undefined> {
  const steps: StoredGeneration[] = [];
  for (let at = generation - 1; at >= 0; at -= 1) {
    const stored = await unlessItFails(() => fileOf(at), ["E_CORRUPT"]);
    if (!stored) return undefined;
    steps.push(stored);
    if (stored.kind === "whole") break;
  }
  const first = steps.at(-1);
  let table = first?.kind === "whole" ? first.table : undefined;
  for (const stored of steps.toReversed()) table = table && stepOn(stored, table);
  return table && isTableOf(own, table) ? table : undefined;
}

async function readStored(workspace: Workspace, generation: number): Promise<StoredGeneration | undefined> {
  const { storage, root } = workspace;
  const path = historyPath(workspace, generation);
  // What is no file is none of imgtx's.
  if ((await storage.statLink(path))?.kind !== "file") return undefined;
  const bytes = await readWholeFile(storage, path, TABLE_LIMIT_BYTES);
  try {
    return decodeGeneration(root, bytes, path, generation);
  } catch (error) {
    if (!(error instanceof ImgtxError && error.code === "E_CORRUPT")) throw error;
    throw damaged(workspace, generation, "is damaged");
  }
}

function damaged(workspace: Workspace, generation: number, why: string): ImgtxError {
  const path = historyPath(workspace, generation);
  const away = `mv ${shellQuote(path)} ${shellQuote(`${path}.damaged`)}`;
  return new ImgtxError("E_CORRUPT", `generation ${generation} in the history ${why}`, {
    image: path,
    hint: `put the file back from a copy, or forget this generation: \`${away}\``,
  });
}

interface ClosedGeneration {
  readonly bytes: Uint8Array;
  /** What the next table says of the differences since the last whole one. */
  readonly sinceWhole: number;
}

/**
 * What the history gets of a generation that closes: a difference, or all of it, where the differences since the last
 * whole one have grown as large as the table is.
 */
export function closeGeneration(
  { root }: Workspace,
  tables: Parameters<typeof storedGenerations>[0],
  wholeBytes: number,
): ClosedGeneration {
  const { sinceWhole: before } = tables.present;
  const { whole, step } = storedGenerations(tables);
  const next = encodeNext(root, whole);
  if (before !== undefined) {
    const bytes = encodeGeneration(root, step(), next);
    const sinceWhole = before + bytes.length;
    if (sinceWhole < wholeBytes) return { bytes, sinceWhole };
  }
  return { bytes: encodeReadable(root, whole, next), sinceWhole: 0 };
}

/** Nothing is written that is not read again: where a whole one and the next are too large together, that is left out. */
function encodeReadable(root: string, stored: StoredGeneration, next?: string): Uint8Array {
  const bytes = encodeGeneration(root, stored, next);
  if (bytes.length <= TABLE_LIMIT_BYTES || stored.kind === "step") return bytes;
  return encodeGeneration(root, { ...stored, next: undefined });
}

/** A closed generation once more, of which more is known. Undefined: its file says all of it. */
export async function encodeRenewed(
  workspace: Workspace,
  closing: DeviceTable,
  later: DeviceTable,
): Promise<Uint8Array | undefined> {
  const { generation } = closing;
  const { table, stored } = (await readingHistory(workspace, later).find(generation)) ?? {};
  if (!table || !stored) throw new Error("a generation that is renewed has been read");
  const renewed = renewedGeneration(stored, table, closing);
  return knowsTheSame(stored, renewed) ? undefined : encodeReadable(workspace.root, renewed);
}
