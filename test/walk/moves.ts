// What a walk may do next: command lines, and what becomes of a device's content by them.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { CHANGES, pullLong } from "./changes.ts";
import {
  chance,
  freshFile,
  type Ground,
  makeImage,
  type Move,
  own,
  pick,
  pickDevice,
  type Propose,
} from "./ground.ts";
import { rename, WAYS_BACK } from "./way-back.ts";
import { CELLS, slotOf } from "./world.ts";

function snapshot(ground: Ground): Move | undefined {
  const found = pickDevice(ground);
  return found && own(["snapshot", found[0], freshFile(ground, found[0])]);
}

function snapshotGroup(ground: Ground): Move {
  const names = [...ground.world.devices.keys()].filter(() => chance(ground, 70));
  const chosen = names.length === 0 ? [...ground.world.devices.keys()] : names;
  return own(["snapshot-group", ...chosen.map((name) => `${name}=${freshFile(ground, name)}`)]);
}

function batch(ground: Ground): Move {
  const lines = [...ground.world.devices.keys()]
    .filter(() => chance(ground, 70))
    .map((name) => `snapshot ${name} ${freshFile(ground, name)}`);
  const file = join(ground.cwd, `batch-${ground.nextNumber()}`);
  writeFileSync(file, `${(lines.length === 0 ? ["# nothing"] : lines).join("\n")}\n`);
  return own(["txn", "run", file]);
}

/** A new mirror, or the one that there is, brought in sync. Every other one keeps marks at each step. */
function mirror(ground: Ground): Move | undefined {
  const found = pickDevice(ground);
  if (!found) return undefined;
  const [name, device] = found;
  const env = chance(ground, 50) ? { env: { IMGTX_MARK_EVERY: "0" } } : {};
  const inSync = [name];
  const verify = chance(ground, 20) ? ["--verify"] : [];
  if (device.mirror) return own(["mirror", name, ...verify], { inSync, ...env });
  const format = pick(ground, ["qcow2", "raw"]) ?? "raw";
  const sync = format === "qcow2" && chance(ground, 30) ? ["--sync", "top"] : [];
  const bitmap = device.format === "qcow2" && chance(ground, 40) ? ["--bitmap"] : [];
  const file = freshFile(ground, name, format);
  const parameters = ["mirror", name, file, "--format", format, ...sync, ...bitmap, ...verify];
  return own(parameters, { inSync, ...env });
}

function mirrorCancel(ground: Ground): Move | undefined {
  const found = pickDevice(ground, (device) => device.mirror !== undefined) ?? pickDevice(ground);
  return found && own(["mirror", "--cancel", found[0]]);
}

function reopenMirror(ground: Ground): Move | undefined {
  const found = pickDevice(ground, ({ mirror: one }) => one !== undefined);
  return found && own(["reopen", found[0], found[1].mirror?.image ?? ""]);
}

/** An image that nobody has, of one pattern. */
function reopenOther(ground: Ground): Move | undefined {
  const found = pickDevice(ground);
  if (!found) return undefined;
  const [name] = found;
  const format = pick(ground, ["qcow2", "raw"]) ?? "raw";
  const file = freshFile(ground, name, format);
  const pattern = 1 + ground.random.below(255);
  makeImage(file, format, pattern);
  ground.knowImage(file, new Uint8Array(CELLS).fill(pattern));
  return {
    argv: ["reopen", name, file, "--format", format],
    content: "the image's",
    inSync: [],
  };
}

function migrate(ground: Ground): Move | undefined {
  const found = pickDevice(ground, ({ mirror: one }) => one === undefined);
  if (!found) return undefined;
  const [name] = found;
  const source = freshFile(ground, name);
  const dest = join(ground.cwd, "..", "C", `${slotOf(name)}-${ground.nextNumber()}.qcow2`);
  return own(["migrate", name, dest, "--new-source", source]);
}

function freeze(ground: Ground): Move | undefined {
  const found = pickDevice(ground);
  return found && own([found[1].frozen ? "unfreeze" : "freeze", found[0]]);
}

function unfreeze(ground: Ground): Move | undefined {
  const found = pickDevice(ground, (device) => device.frozen);
  return found && own(["unfreeze", found[0]]);
}

/** More often what operators do more often. */
const MOVES: readonly (readonly [number, Propose])[] = [
  [16, snapshot],
  [14, snapshotGroup],
  [4, batch],
  [20, mirror],
  [5, mirrorCancel],
  [14, reopenMirror],
  [5, reopenOther],
  [4, migrate],
  [5, freeze],
  [6, unfreeze],
  [6, rename],
  ...CHANGES,
];
const ALONE = [...MOVES, ...WAYS_BACK];

/** What fits into a transaction. */
const INSIDE = MOVES.filter(([, propose]) => propose !== reopenOther);

export type Occasion = "alone" | "inside" | "beside another";

export function proposeMove(ground: Ground, occasion: Occasion): Move {
  const moves = occasion === "alone" ? ALONE : INSIDE;
  const total = moves.reduce((sum, [weight]) => sum + weight, 0);
  for (;;) {
    let at = ground.random.below(total);
    const [, propose] = moves.find(([weight]) => (at -= weight) < 0) ?? [0, snapshotGroup];
    const move = propose(ground);
    if (!move || (occasion === "inside" && move.argv[0] === "img")) continue;
    // Which of two comes first is not known: neither may change what the other finds.
    const staysAsItIs = move.effects?.every(({ kind }) => kind === "keep" || kind === "name") ?? true;
    if (occasion !== "beside another" || staysAsItIs) return move;
  }
}

/** For a device whose chain has become long: a pull, or a mirror of its whole content, to go over to. */
export function flatten(ground: Ground, name: string): Move {
  const { mirror: one } = ground.world.devices.get(name) ?? {};
  if (one?.sync === "full") return own(["reopen", name, one.image]);
  if (one) return own(["mirror", "--cancel", name]);
  if (chance(ground, 60)) return pullLong(name);
  return own(["mirror", name, freshFile(ground, name), "--format", "qcow2"], { inSync: [name] });
}
