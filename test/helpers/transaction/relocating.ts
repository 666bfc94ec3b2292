// Short ways to relocate devices in tests.

import { readdirSync } from "node:fs";
import { expect } from "vitest";
import { listSnapshots, type RunOptions } from "../../../src/transaction/index.ts";
import { makeFolder } from "../temporary-folder.ts";
import { writeGuest } from "./mirroring.ts";
import { makeWorkbench, type Workbench } from "./workbench.ts";

const to = (devices: readonly string[] | undefined, folder: string, keep = false) =>
  ({ kind: "relocate", devices, folder, keep }) as const;

export async function relocate(
  bench: Workbench,
  devices: readonly string[] | undefined,
  folder: string,
  { keep = false, ...options }: Partial<RunOptions> & { readonly keep?: boolean } = {},
) {
  return await bench.run(to(devices, folder, keep), options);
}

/** vda on base.raw, vdb and vdc, with two snapshots of all, and a branch that a rollback has left. */
export async function makeKept(): Promise<{ bench: Workbench; elsewhere: string }> {
  const bench = await makeWorkbench();
  const all = { kind: "snapshot-group", targets: [], isOfAll: true } as const;
  await bench.snapshot({}, all);
  for (const { image, format } of await bench.devices()) writeGuest(image, format, "write -P 7 20k 48k");
  await bench.snapshot({}, all);
  await bench.rollback("1", ["vda"]);
  return { bench, elsewhere: makeFolder() };
}

export const imagesIn = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => /\.(qcow2|raw)$/.test(name))
    .sort();

export async function expectIntact(bench: Workbench): Promise<void> {
  const snapshots = await listSnapshots(await bench.session(), {});
  expect(snapshots.flatMap(({ devices }) => devices.flatMap(({ problems }) => problems))).toEqual([]);
  expect((await bench.devices()).map(({ state }) => state)).toEqual(["ok", "ok", "ok"]);
}
