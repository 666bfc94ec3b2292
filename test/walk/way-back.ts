// Moves that go back to what was kept, or take it away.

import { existsSync, mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { chance, type Ground, type Move, own, pick, pickDevice, type Propose } from "./ground.ts";
import { keyOf } from "./sealed.ts";
import { slotOf } from "./world.ts";

/** To what a snapshot keeps of all its devices, or of one. */
function rollback(ground: Ground): Move | undefined {
  const { listed, sealed } = ground.world;
  const chosen = pick(ground, listed);
  if (!chosen) return undefined;
  const { number, device } = chosen;
  const devices = chance(ground, 50)
    ? [device]
    : listed.filter((one) => one.number === number).map((one) => one.device);
  const discard = chance(ground, 20) ? ["--discard", "--yes"] : [];
  return own(["rollback", ...devices, "--to", String(number), ...discard], {
    effects: devices.map((name) => {
      const content = sealed.get(keyOf({ number, device: name }));
      if (!content) throw new Error("what a snapshot keeps is known");
      return { kind: "back", device: name, content };
    }),
  });
}

/** To the images of another generation: what each held when it was left. */
function wayBack(ground: Ground, verb: "undo" | "redo"): Move {
  const force = chance(ground, 20) ? ["--force"] : [];
  return own([verb, ...force], { content: "the image's" });
}

function snapshotDelete(ground: Ground): Move | undefined {
  const chosen = pick(ground, ground.world.listed);
  if (!chosen) return undefined;
  const device = chance(ground, 30) ? ["--device", chosen.device] : [];
  return own(["snapshot-delete", String(chosen.number), ...device, "--yes"]);
}

/** To a folder on the same disk, and back, with all that snapshots keep of it. */
function relocate(ground: Ground): Move | undefined {
  const found = pickDevice(ground);
  if (!found) return undefined;
  const [name, { image }] = found;
  const from = dirname(image);
  const to = basename(from) === "moved" ? dirname(from) : join(from, "moved");
  if (!existsSync(from)) return undefined;
  mkdirSync(to, { recursive: true });
  const keep = chance(ground, 20) ? ["--keep"] : [];
  return own(["relocate", name, to, ...keep], { effects: [{ kind: "move", device: name }] });
}

/** To a name that nobody had, or back to its first. */
export function rename(ground: Ground): Move | undefined {
  const found = pickDevice(ground);
  if (!found) return undefined;
  const [device] = found;
  const first = slotOf(device);
  const name = device !== first && chance(ground, 40) ? first : `${first}_${ground.nextNumber()}`;
  return own(["device", "rename", device, name], { effects: [{ kind: "name", device, name }] });
}

/** How often each comes, as in `moves.ts`. */
export const WAYS_BACK: readonly (readonly [number, Propose])[] = [
  [12, rollback],
  [8, (ground) => wayBack(ground, "undo")],
  [6, (ground) => wayBack(ground, "redo")],
  [6, snapshotDelete],
  [5, relocate],
];
