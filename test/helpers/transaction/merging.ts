// Short ways to merge layers of devices in tests.

import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { MergeRequest } from "../../../src/transaction/index.ts";
import { run, runWell } from "../qemu-programs.ts";
import { makeFolder } from "../temporary-folder.ts";
import { writeGuest } from "./mirroring.ts";
import { Workbench } from "./workbench.ts";

export interface MergeChoice {
  readonly from?: string;
  readonly into?: string;
  readonly keep?: boolean;
  readonly rebaseSiblings?: boolean;
  readonly force?: boolean;
}

export function mergeRequest(
  bench: Workbench,
  devices: readonly string[],
  { from, into, keep = false, ...how }: MergeChoice = {},
): MergeRequest {
  const at = (name: string | undefined) => (name === undefined ? undefined : bench.at(name));
  return { kind: "merge", devices, from: at(from), into: at(into), keep, ...how };
}

interface ChainChoice {
  readonly words?: readonly string[];
  readonly sizes?: readonly string[];
}

/** Images of chains that were made, by what they were made of: QEMU's programs take longer to start than a test. */
const made = new Map<string, readonly Uint8Array[]>();

/** A device on a chain of qcow2 images, the lowest first, each with data and zeros of its own. */
export async function makeChain(
  names: readonly string[],
  how: ChainChoice = {},
  folder = makeFolder(),
): Promise<Workbench> {
  const bench = new Workbench(folder);
  for (const name of names) bench.makeFile(`${path.dirname(name)}/README`, "images\n");
  const key = JSON.stringify([names, how]);
  const known = made.get(key);
  for (const [index, name] of names.entries()) {
    const image = known?.[index];
    if (image) writeFileSync(bench.at(name), image);
    else makeLayer(bench, names, index, how);
  }
  if (!known) {
    made.set(
      key,
      names.map((name) => readFileSync(bench.at(name))),
    );
  }
  await bench.add("vda", names.at(-1) ?? "");
  runWell("qemu-img", "convert", "-O", "raw", bench.at(names.at(-1) ?? ""), bench.at("before.raw"));
  return bench;
}

function makeLayer(
  bench: Workbench,
  names: readonly string[],
  index: number,
  { words = [], sizes = [] }: ChainChoice,
): void {
  const file = bench.at(names[index] ?? "");
  const below = names[index - 1];
  const backing =
    below === undefined ? [] : ["-b", path.relative(path.dirname(file), bench.at(below)), "-F", "qcow2"];
  runWell("qemu-img", "create", "-q", "-f", "qcow2", ...words, ...backing, file, sizes[index] ?? "4M");
  const at = index * 300;
  writeGuest(file, "qcow2", `write -P ${index + 1} ${at}k 500k`, `write -z ${at + 100}k 64k`);
}

/** What qemu-img says of the device, and of what it showed when it was made. */
export async function compareWithBefore(bench: Workbench): Promise<string> {
  const image = (await bench.devices())[0]?.image ?? "";
  return run("qemu-img", "compare", image, bench.at("before.raw")).output.trim();
}
