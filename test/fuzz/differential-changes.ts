// Changes in place that a sequence of the differential fuzzer tries: a command line for both tools, and what it makes
// of the image.

import type { Random } from "../helpers/random.ts";
import { chance, type ChosenLayout, pick } from "./differential-options.ts";

/** What a change is chosen by. */
export interface Subject {
  readonly random: Random;
  readonly name: string;
  readonly layout: ChosenLayout;
  readonly sizeBytes: number;
  /** What lies below, from the top down. */
  readonly below: readonly { readonly name: string; readonly format: string }[];
  readonly snapshots: readonly string[];
  /** How many snapshots the refcounts have room for. */
  readonly room: number;
  newLabel(letter: string): string;
}

export interface Change {
  readonly words: readonly string[];
  /** The images whose content and properties are compared afterwards: the first is what the words name last. */
  readonly images: readonly string[];
  readonly sizeBytes?: number;
  /** What of the content is not compared. */
  readonly ignored?: { readonly start: number; readonly end: number };
  readonly snapshot?: { readonly kind: "keep" | "apply" | "drop"; readonly name: string };
  readonly layout?: Partial<ChosenLayout>;
  /** How many of the images below are left. */
  readonly depth?: number;
  /** Whether counts are to be damaged first. */
  readonly isRepair?: boolean;
  /** What imgtx does instead to a device on the first of the images, `vd`: the same by another way. */
  readonly device?: readonly string[];
}

/** Of those that can be done by device. */
const DEVICE_PERCENT = 50;
const SECTOR_BYTES = 512;
const LARGE_BYTES = 2 ** 20;
const BITMAPS = ["b1", "b2", "b3"] as const;

export function chooseChange(subject: Subject): Change | undefined {
  const { random } = subject;
  const choose = pick(random, [
    resize,
    resize,
    snapshot,
    snapshot,
    snapshot,
    bitmap,
    bitmap,
    rebase,
    commit,
    commit,
    amend,
    repair,
  ]);
  const change = choose(subject);
  const { device: _device, ...byFile } = change ?? { words: [], images: [] };
  return change && (chance(random, DEVICE_PERCENT) ? change : byFile);
}

/** QEMU shows what was cut off once, in the last cluster. */
function ignoredOf({ sizeBytes, layout }: Subject): { readonly start: number; readonly end: number } {
  return { start: sizeBytes, end: Math.ceil(sizeBytes / layout.clusterBytes) * layout.clusterBytes };
}

function resize(subject: Subject): Change {
  const { random, name, sizeBytes } = subject;
  const mayShrink = chance(random, 40);
  const span = mayShrink ? sizeBytes / SECTOR_BYTES : 4096;
  const change = SECTOR_BYTES * random.below(span);
  const target = mayShrink ? sizeBytes - change : sizeBytes + change;
  const shrink = mayShrink ? ["--shrink"] : [];
  const words = ["resize", "-q", "-f", "qcow2", ...shrink, name, String(target)];
  return { words, images: [name], sizeBytes: target, ignored: ignoredOf(subject) };
}

function snapshot(subject: Subject): Change | undefined {
  const { random, name, snapshots, room, layout } = subject;
  if (layout.hasDataFile) return undefined;
  const old = snapshots[random.below(Math.max(1, snapshots.length))];
  const dice = random.below(10);
  if (old === undefined || dice < 5) {
    if (snapshots.length >= room) return undefined;
    const label = subject.newLabel("s");
    return {
      words: ["snapshot", "-c", label, name],
      images: [name],
      snapshot: { kind: "keep", name: label },
    };
  }
  const kind = dice < 8 ? "drop" : "apply";
  const words = ["snapshot", kind === "drop" ? "-d" : "-a", old, name];
  return { words, images: [name], snapshot: { kind, name: old } };
}

function bitmap({ random, name }: Subject): Change {
  const label = pick(random, BITMAPS);
  const what = pick(random, ["add", "add", "add", "remove", "clear", "enable", "disable", "merge"]);
  const grain = chance(random, 60) ? ["-g", String(2 ** (9 + random.below(12)))] : [];
  const words =
    what === "add"
      ? ["--add", ...grain, ...(chance(random, 20) ? ["--disable"] : [])]
      : what === "merge"
        ? ["--merge", pick(random, BITMAPS)]
        : [`--${what}`];
  const more = chance(random, 20) ? ["--merge", pick(random, BITMAPS)] : [];
  return { words: ["bitmap", ...words, ...more, "-f", "qcow2", name, label], images: [name] };
}

/** Onto one further down, or onto nothing. */
function rebase({ random, name, below }: Subject): Change | undefined {
  if (below.length === 0) return undefined;
  const depth = random.below(below.length + 1);
  const onto = below[depth];
  const verb = pick(random, ["pull", "rebase"]);
  const base = onto === undefined ? ["-b", ""] : ["-b", onto.name, "-F", onto.format];
  return {
    words: ["rebase", "-f", "qcow2", ...base, name],
    images: [name],
    depth: onto === undefined ? 0 : below.length - depth,
    device:
      onto === undefined ? ["pull", "vd"] : [verb, "vd", verb === "pull" ? "--base" : "--onto", onto.name],
  };
}

function commit({ random, name, below }: Subject): Change | undefined {
  if (below.length === 0) return undefined;
  const depth = random.below(below.length);
  const base = below[depth]?.name ?? "";
  const words = depth === 0 && chance(random, 50) ? [] : ["-b", base];
  return {
    words: ["commit", "-q", "-d", "-f", "qcow2", ...words, name],
    images: [name, base],
    device: ["merge", "vd", "--keep", "--into", base],
  };
}

function amend(subject: Subject): Change {
  const { random, name, layout, sizeBytes } = subject;
  const what = random.below(10);
  const done = (option: string, more: Partial<Change>): Change => ({
    words: ["amend", "-f", "qcow2", "-o", option, name],
    images: [name],
    ...more,
  });
  if (what < 3) {
    const version = layout.version === 2 || chance(random, 30) ? 3 : 2;
    return done(`compat=${version === 2 ? "0.10" : "1.1"}`, { layout: { version } });
  }
  if (what < 5) return done(`lazy_refcounts=${pick(random, ["on", "off"])}`, {});
  // With large clusters QEMU takes minutes for the counts of an empty image.
  if (what < 6 || layout.clusterBytes >= LARGE_BYTES) {
    const target = sizeBytes + SECTOR_BYTES * random.below(4096);
    return done(`size=${target}`, { sizeBytes: target, ignored: ignoredOf(subject) });
  }
  const refcountBits = 2 ** pick(random, [3, 4, 4, 5, 6, 2, 1]);
  return done(`refcount_bits=${refcountBits}`, { layout: { refcountBits } });
}

function repair({ random, name }: Subject): Change {
  const scope = pick(random, ["all", "all", "leaks"]);
  const words = ["check", "--output=json", "-r", scope, "-f", "qcow2", name];
  return { words, images: [name], isRepair: true, device: ["repair", "vd", "-r", scope] };
}
