// What moves are made of: what they may know of the world, and how a device or a file is chosen.

import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import type { Random } from "../helpers/random.ts";
import type { Effect } from "./effects.ts";
import { CELL_BYTES, CELLS, type Content, type Device, slotOf, type World } from "./world.ts";

export interface Move {
  readonly argv: readonly string[];
  /** Where a device that goes to another image has its content from: its own, or what that image holds. */
  readonly content: "own" | "the image's";
  /** Devices whose mirror has their content when this is done. */
  readonly inSync: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** What it changes of devices' content and snapshots, when it is done. */
  readonly effects?: readonly Effect[];
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

export type Propose = (ground: Ground) => Move | undefined;

export function pick<T>({ random }: Pick<Ground, "random">, choices: readonly T[]): T | undefined {
  return choices.length === 0 ? undefined : choices[random.below(choices.length)];
}

export function chance({ random }: Pick<Ground, "random">, percent: number): boolean {
  return random.below(100) < percent;
}

export function pickDevice(
  ground: Ground,
  fits: (device: Device) => boolean = () => true,
): [string, Device] | undefined {
  return pick(
    ground,
    [...ground.world.devices].filter(([, device]) => fits(device)),
  );
}

/** Beside the device's image. */
export function freshFile({ world, ...ground }: Ground, name: string, ending = "qcow2"): string {
  const folder = dirname(world.devices.get(name)?.image ?? "");
  return join(folder, `${slotOf(name)}-${ground.nextNumber()}.${ending}`);
}

export const own = (argv: readonly string[], more: Partial<Move> = {}): Move => ({
  argv,
  content: "own",
  inSync: [],
  ...more,
});

/** An image of one pattern. */
export function makeImage(
  file: string,
  format: string,
  pattern: number,
  { options = [], cells = CELLS }: { readonly options?: readonly string[]; readonly cells?: number } = {},
): void {
  const size = cells * CELL_BYTES;
  for (const command of [
    ["qemu-img", "create", "-q", "-f", format, ...options, file, String(size)],
    ["qemu-io", "-f", format, "-c", `write -q -P ${pattern} 0 ${size}`, "-c", "flush", file],
  ]) {
    const [program = "", ...parameters] = command;
    const { status, stderr } = spawnSync(program, parameters, { encoding: "utf8" });
    if (status !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
  }
}
