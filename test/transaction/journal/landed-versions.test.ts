// What each version of journals and tables that was ever landed looks like: written by the imgtx of then, in a
// workspace in /srv/guests with an open transaction. This one reads them.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { decodeTable } from "../../../src/device/table/device-table.ts";
import { foldRecords } from "../../../src/transaction/journal/fold.ts";
import { JOURNAL_VERSION } from "../../../src/transaction/journal/records.ts";
import { parseJournal } from "../../../src/transaction/journal/record-line.ts";
import { READ_VERSIONS } from "../../../src/transaction/journal/upgrade.ts";

const read = (name: string): Uint8Array => readFileSync(new URL(`samples/${name}`, import.meta.url));

const STATEMENTS: readonly (readonly [number, readonly string[]])[] = [
  [1, ["snapshot", "freeze"]],
  [2, ["snapshot", "freeze"]],
  [3, ["snapshot", "freeze", "resize"]],
  [4, ["snapshot", "freeze", "resize", "internal-snapshot-create"]],
  [5, ["snapshot", "freeze", "bitmap-add", "resize", "internal-snapshot-create", "merge"]],
  [6, ["snapshot", "freeze", "bitmap-add", "resize", "internal-snapshot-create", "merge"]],
];

test("there is a sample of each version", () => {
  expect(new Set(STATEMENTS.map(([version]) => version))).toEqual(READ_VERSIONS);
});

test.each(STATEMENTS)("a journal of version %s says what its transaction does", (version, kinds) => {
  const bytes = read(`${version}.journal`);
  expect(Buffer.from(bytes).toString()).toContain(`"version":${version},`);
  const parsed = parseJournal(bytes, "t.journal");
  const state = foldRecords(parsed.records, "t.journal");
  expect(state?.begin.version).toBe(JOURNAL_VERSION);
  expect(state?.statements.map(({ plan }) => plan.kind)).toEqual(kinds);
  expect(state?.statements.every(({ done }) => done)).toBe(true);
  expect(state?.commit).toBeUndefined();
});

test.each([1, 2, 3, 4])("a table of version %s has its devices, and their chains", (version) => {
  const bytes = read(`${version}.table`);
  expect(Buffer.from(bytes).toString()).toContain(`"version":${version},`);
  const { table, isEarlier } = decodeTable("/srv/guests", bytes, "table.json");
  const chains = table.devices.map(({ name, chain }) => [name, ...chain.map(({ image }) => image)]);
  expect(chains).toEqual([
    ["vda", "/srv/guests/a1.qcow2", "/srv/guests/a.qcow2"],
    ["vdb", "/srv/guests/b1.qcow2", "/srv/guests/b.raw"],
    ["vdc", "/srv/guests/c.qcow2"],
  ]);
  expect(table.generation).toBe(4);
  expect(isEarlier).toBe(version < 3);
  expect(table.snapshots.length).toBe(isEarlier ? 0 : 1);
});
