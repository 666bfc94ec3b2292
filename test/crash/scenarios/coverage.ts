// Which actions the scenarios of the registry try, on how many devices at once and on which layouts.

import { readHeader } from "../../helpers/guest-content.ts";
import type { SampleFile, Scenario } from "./sample-devices.ts";

export const LAYOUT_NAMES = [
  "version 2",
  "version 3",
  "extended L2",
  "512 B clusters",
  "2 MiB clusters",
  "data file",
] as const;
export type LayoutName = (typeof LAYOUT_NAMES)[number];

export interface Covered {
  /** Of how many devices one scenario has it. */
  readonly devices: Set<number>;
  readonly layouts: Set<LayoutName>;
}

/** By the action's kind. */
export function coverageOf(scenarios: readonly Scenario[]): ReadonlyMap<string, Covered> {
  const covered = new Map<string, Covered>();
  for (const scenario of scenarios) {
    const files = scenario.files();
    const layouts = layoutsOf(scenario, files);
    const touched = new Map<string, Set<string>>();
    for (const words of linesOf(scenario, files)) {
      const kind = kindOf(words);
      const devices = devicesIn(kind, words, layouts);
      for (const device of devices) touched.set(kind, (touched.get(kind) ?? new Set()).add(device));
    }
    for (const [kind, devices] of touched) {
      const entry = covered.get(kind) ?? { devices: new Set(), layouts: new Set() };
      entry.devices.add(devices.size);
      for (const device of devices) for (const layout of layouts.get(device) ?? []) entry.layouts.add(layout);
      covered.set(kind, entry);
    }
  }
  return covered;
}

/** The commands of its steps, those of batches among them. */
function linesOf({ steps }: Scenario, files: readonly SampleFile[]): string[][] {
  return steps.flatMap(({ argv }) => {
    const [first, second, batch] = argv;
    if (first !== "txn" || second !== "run") return [[...argv]];
    const { bytes } = files.find(({ path }) => path === `ws/${batch}`) ?? {};
    const lines = Buffer.from(bytes ?? [])
      .toString("utf8")
      .split("\n");
    return lines.filter((line) => line !== "" && !line.startsWith("{")).map((line) => line.split(" "));
  });
}

const WITH_SECOND_WORD: readonly string[] = ["device", "internal-snapshot", "bitmap"];

function kindOf([verb = "", second = "", ...rest]: readonly string[]): string {
  if (WITH_SECOND_WORD.includes(verb)) return `${verb}-${second}`;
  const options = [second, ...rest];
  if (verb === "repair" && options.includes("--undo")) return "repair-undo";
  return verb === "mirror" && options.includes("--cancel") ? "mirror-cancel" : verb;
}

function devicesIn(
  kind: string,
  words: readonly string[],
  known: ReadonlyMap<string, readonly LayoutName[]>,
): string[] {
  // They move all that there is.
  if (["rollback", "undo", "redo", "snapshot-delete"].includes(kind)) return [...known.keys()];
  return words.map((word) => word.split("=")[0] ?? "").filter((word) => known.has(word));
}

/** Of each device that is added, by the image that it is added with. */
function layoutsOf(
  scenario: Scenario,
  files: readonly SampleFile[],
): ReadonlyMap<string, readonly LayoutName[]> {
  const layouts = new Map<string, readonly LayoutName[]>();
  const prepared = scenario.prepare.map(({ argv }) => argv);
  for (const [verb, action, name, image] of [...prepared, ...linesOf(scenario, files)]) {
    if (verb !== "device" || action !== "add" || name === undefined || image === undefined) continue;
    const path = image.startsWith("../") ? image.slice(3) : `ws/${image}`;
    layouts.set(name, layoutOf(files.find((file) => file.path === path)));
  }
  return layouts;
}

function layoutOf(file: SampleFile | undefined): LayoutName[] {
  if (!file || !file.path.endsWith(".qcow2")) return [];
  const { bytes, path } = file;
  const sizeBytes = bytes.length;
  const read = (offset: number, length: number) => bytes.subarray(offset, offset + length);
  const { version, clusterBits, extendedL2, dataFileName } = readHeader({ sizeBytes, read }, path);
  return [
    version === 2 ? ("version 2" as const) : ("version 3" as const),
    ...(extendedL2 ? (["extended L2"] as const) : []),
    ...(clusterBits === 9 ? (["512 B clusters"] as const) : []),
    ...(clusterBits === 21 ? (["2 MiB clusters"] as const) : []),
    ...(dataFileName === undefined ? [] : (["data file"] as const)),
  ];
}
