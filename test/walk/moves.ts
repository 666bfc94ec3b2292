// What a walk may do next: command lines, and what becomes of a device's content by them.

import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Random } from "../helpers/random.ts";
import { CELL_BYTES, CELLS, type Content, type Device, type World } from "./world.ts";

export interface Move {
  readonly argv: readonly string[];
  /** Where a device that goes to another image has its content from: its own, or what that image holds. */
  readonly content: "own" | "the image's";
  /** Devices whose mirror has their content when this is done. */
  readonly inSync: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export interface Ground {
  readonly cwd: string;
  readonly random: Random;
  readonly world: World;
  /** A number that no file has in its name yet. */
  nextNumber(): number;
  /** Has an image that was made beside the devices known by what it holds. */
  knowImage(path: string, content: Content): void;
}

type Propose = (ground: Ground) => Move | undefined;

function pick<T>({ random }: Pick<Ground, "random">, choices: readonly T[]): T | undefined {
  return choices.length === 0 ? undefined : choices[random.below(choices.length)];
}

function chance({ random }: Pick<Ground, "random">, percent: number): boolean {
  return random.below(100) < percent;
}

function pickDevice(
  ground: Ground,
  fits: (device: Device) => boolean = () => true,
): [string, Device] | undefined {
  return pick(
    ground,
    [...ground.world.devices].filter(([, device]) => fits(device)),
  );
}

/** Beside the device's image. */
function freshFile({ world, ...ground }: Ground, name: string, ending = "qcow2"): string {
  const folder = dirname(world.devices.get(name)?.image ?? "");
  return join(folder, `${name}-${ground.nextNumber()}.${ending}`);
}

const own = (argv: readonly string[], more: Partial<Move> = {}): Move => ({
  argv,
  content: "own",
  inSync: [],
  ...more,
});

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

export function makeImage(
  file: string,
  format: string,
  pattern: number,
  options: readonly string[] = [],
): void {
  const size = CELLS * CELL_BYTES;
  for (const command of [
    ["qemu-img", "create", "-q", "-f", format, ...options, file, String(size)],
    ["qemu-io", "-f", format, "-c", `write -q -P ${pattern} 0 ${size}`, "-c", "flush", file],
  ]) {
    const [program = "", ...parameters] = command;
    const { status, stderr } = spawnSync(program, parameters, { encoding: "utf8" });
    if (status !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
  }
}

/** The first with all devices: a rollback takes those away that came later. */
const FIRST_GENERATION = 3;

function rollback(ground: Ground): Move | undefined {
  const back = ground.random.below(4);
  const { generation } = ground.world;
  if (generation <= FIRST_GENERATION) return undefined;
  const to = back === 0 ? [] : ["--to", String(Math.max(FIRST_GENERATION, generation - back))];
  return { argv: ["rollback", ...to], content: "the image's", inSync: [] };
}

function migrate(ground: Ground): Move | undefined {
  const found = pickDevice(ground, ({ mirror: one }) => one === undefined);
  if (!found) return undefined;
  const [name] = found;
  const source = freshFile(ground, name);
  const dest = join(ground.cwd, "..", "C", `${name}-${ground.nextNumber()}.qcow2`);
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
  [8, rollback],
  [4, migrate],
  [5, freeze],
  [6, unfreeze],
];

/** What leaves each device's own content, whatever else runs beside it, and fits into a transaction. */
const CALM: readonly (readonly [number, Propose])[] = MOVES.filter(
  ([, propose]) => propose !== rollback && propose !== reopenOther,
);

export function proposeMove(ground: Ground, isCalm: boolean): Move {
  const moves = isCalm ? CALM : MOVES;
  const total = moves.reduce((sum, [weight]) => sum + weight, 0);
  for (;;) {
    let at = ground.random.below(total);
    const [, propose] = moves.find(([weight]) => (at -= weight) < 0) ?? [0, snapshotGroup];
    const move = propose(ground);
    if (move) return move;
  }
}

/** For a device whose chain has become long: a mirror of its whole content, to go over to. */
export function flatten(ground: Ground, name: string): Move {
  const { mirror: one } = ground.world.devices.get(name) ?? {};
  if (one?.sync === "full") return own(["reopen", name, one.image]);
  if (one) return own(["mirror", "--cancel", name]);
  return own(["mirror", name, freshFile(ground, name), "--format", "qcow2"], { inSync: [name] });
}
