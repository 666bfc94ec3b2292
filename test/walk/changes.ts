// Moves that change images in place: the devices' own, and those of `imgtx img` on a device's image.

import { join } from "node:path";
import { chance, type Ground, makeImage, type Move, own, pick, pickDevice, type Propose } from "./ground.ts";
import { CELL_BYTES, type Device } from "./world.ts";

const SMALLEST_CELLS = 8;
const LARGEST_CELLS = 96;

const isQcow2 = ({ format }: Device): boolean => format === "qcow2";
const hasBacking = (device: Device): boolean => isQcow2(device) && device.chain.length > 1;

/** One to three of what has such an image, in the order of the table. */
function pickSome(ground: Ground, fits: (device: Device) => boolean): [string, Device][] {
  const fitting = [...ground.world.devices].filter(([, device]) => fits(device));
  const chosen = fitting.filter(() => chance(ground, 50));
  return chosen.length > 0 ? chosen : fitting.slice(0, 1);
}

function merge(ground: Ground): Move | undefined {
  const keep = chance(ground, 30) ? ["--keep"] : [];
  if (chance(ground, 40)) {
    const names = pickSome(ground, hasBacking).map(([name]) => name);
    return names.length === 0 ? undefined : own(["merge", ...names, ...keep]);
  }
  const found = pickDevice(ground, hasBacking);
  if (!found) return undefined;
  const [name, { chain }] = found;
  const from = ground.random.below(chain.length - 1);
  const into = from + 1 + ground.random.below(chain.length - 1 - from);
  const way = ["--into", chain[into]?.image ?? "", ...(from > 0 ? ["--from", chain[from]?.image ?? ""] : [])];
  return own(["merge", name, ...way, ...keep]);
}

function pull(ground: Ground): Move | undefined {
  if (chance(ground, 30)) {
    const names = pickSome(ground, hasBacking).map(([name]) => name);
    return names.length === 0 ? undefined : own(["pull", ...names]);
  }
  const found = pickDevice(ground, hasBacking);
  if (!found) return undefined;
  const [name, { chain }] = found;
  return own(["pull", name, "--base", chain[1 + ground.random.below(chain.length - 1)]?.image ?? ""]);
}

export function pullLong(name: string): Move {
  return own(["pull", name]);
}

/** Onto an image further down, or one that holds something else and is of another size. */
function rebase(ground: Ground): Move | undefined {
  const found = pickDevice(ground, isQcow2);
  if (!found) return undefined;
  const [name, { chain, image }] = found;
  const more = chance(ground, 30) ? ["-c"] : [];
  const below = pick(ground, chain.slice(1));
  if (below && chance(ground, 60)) {
    const isSame = below === chain[1];
    const unsafe = isSame && chance(ground, 30) ? ["-u"] : [];
    const how = ["--format", below.format, ...(pick(ground, [["--relative"], ["--absolute"], []]) ?? [])];
    if (chance(ground, 20) && below.format === "qcow2") {
      return own(["img", "rebase", "-f", "qcow2", "-b", below.image, "-F", "qcow2", image]);
    }
    return own(["rebase", name, "--onto", below.image, ...how, ...(unsafe.length > 0 ? unsafe : more)]);
  }
  const format = pick(ground, ["qcow2", "raw"]) ?? "raw";
  const file = join(image, "..", `base-${ground.nextNumber()}.${format}`);
  const cells = SMALLEST_CELLS + ground.random.below(LARGEST_CELLS - SMALLEST_CELLS);
  makeImage(file, format, 1 + ground.random.below(255), { cells });
  return own(["rebase", name, "--onto", file, "--format", format, ...more]);
}

function resize(ground: Ground): Move | undefined {
  const found = pickDevice(ground);
  if (!found) return undefined;
  const [name, { content, image, format }] = found;
  const cells = SMALLEST_CELLS + ground.random.below(LARGEST_CELLS - SMALLEST_CELLS);
  const isSmaller = cells < content.length;
  const size = String(cells * CELL_BYTES);
  const argv = chance(ground, 20)
    ? ["img", "resize", "-f", format, ...(isSmaller ? ["--shrink"] : []), image, size]
    : ["resize", name, size, ...(isSmaller ? ["--shrink", "--force"] : [])];
  return own(argv, { effects: [{ kind: "size", device: name, cells }] });
}

function takeInternal(ground: Ground): Move | undefined {
  const snapshot = `s${ground.nextNumber()}`;
  const chosen = pickSome(ground, isQcow2);
  const [first] = chosen;
  if (!first) return undefined;
  const effect = ([device]: [string, Device]) => ({ kind: "keep", device, snapshot }) as const;
  if (chance(ground, 20)) {
    return own(["img", "snapshot", "-c", snapshot, first[1].image], { effects: [effect(first)] });
  }
  const names = chosen.map(([name]) => name);
  return own(["internal-snapshot", "create", ...names, snapshot], { effects: chosen.map(effect) });
}

/** One of a device's, which others may have as well. */
function useInternal(ground: Ground, kind: "apply" | "drop"): Move | undefined {
  const labelsOf = ({ image }: Device) => [...(ground.world.kept.get(image)?.keys() ?? [])];
  const found = pickDevice(ground, (device) => labelsOf(device).length > 0);
  if (!found) return undefined;
  const [name, device] = found;
  const snapshot = pick(ground, labelsOf(device)) ?? "";
  const others = pickSome(ground, (one) => one !== device && labelsOf(one).includes(snapshot));
  const names = [name, ...others.map(([other]) => other)];
  if (chance(ground, 20)) {
    const argv = ["img", "snapshot", kind === "apply" ? "-a" : "-d", snapshot, device.image];
    return own(argv, { effects: [{ kind, device: name, snapshot }] });
  }
  const verb = kind === "apply" ? "apply" : "delete";
  return own(["internal-snapshot", verb, ...names, snapshot], {
    effects: names.map((one) => ({ kind, device: one, snapshot })),
  });
}

/** Of a few names, so that they are often there, and often not. */
function bitmap(ground: Ground): Move | undefined {
  const chosen = pickSome(ground, isQcow2);
  const [first] = chosen;
  if (!first) return undefined;
  const names = chosen.map(([name]) => name);
  const label = pick(ground, ["b1", "b2", "b3"]) ?? "b1";
  const kind = pick(ground, ["add", "add", "add", "remove", "clear", "enable", "disable", "merge"]) ?? "add";
  if (kind === "merge") return own(["bitmap", "merge", "--from", "b1", ...names, label]);
  const grain =
    kind === "add" && chance(ground, 50) ? ["-g", pick(ground, ["512", "64k", "1M"]) ?? "64k"] : [];
  if (chance(ground, 20)) return own(["img", "bitmap", `--${kind}`, ...grain, first[1].image, label]);
  return own(["bitmap", kind, ...grain, ...names, label]);
}

const PROPERTIES = [
  "compat=0.10",
  "compat=1.1",
  "lazy_refcounts=on",
  "lazy_refcounts=off",
  "refcount_bits=8",
  "refcount_bits=16",
  "refcount_bits=64",
  "compat=1.1,refcount_bits=32,lazy_refcounts=on",
];

function amend(ground: Ground): Move | undefined {
  const chosen = pickSome(ground, isQcow2);
  const [first] = chosen;
  if (!first) return undefined;
  const how = ["-o", pick(ground, PROPERTIES) ?? ""];
  if (chance(ground, 20)) return own(["img", "amend", "-f", "qcow2", ...how, first[1].image]);
  return own(["amend", ...chosen.map(([name]) => name), ...how]);
}

function repair(ground: Ground): Move | undefined {
  const chosen = pickSome(ground, isQcow2);
  const [first] = chosen;
  if (!first) return undefined;
  const what = chance(ground, 30) ? ["-r", "leaks"] : [];
  if (chance(ground, 20)) return own(["img", "check", "-r", "all", first[1].image]);
  return own(["repair", ...chosen.map(([name]) => name), ...what]);
}

/** How often each comes, as in `moves.ts`. */
export const CHANGES: readonly (readonly [number, Propose])[] = [
  [14, merge],
  [8, pull],
  [9, rebase],
  [12, resize],
  [12, takeInternal],
  [6, (ground) => useInternal(ground, "apply")],
  [6, (ground) => useInternal(ground, "drop")],
  [8, bitmap],
  [7, amend],
  [5, repair],
];
