// What changes in place make of a device's content and of its internal snapshots: the walk's model of them.

import { type Content, Fault, type Listing, slotOf, type World } from "./world.ts";

/** One device each, in the order in which they come. */
export type Effect =
  | { readonly kind: "size"; readonly device: string; readonly cells: number }
  /** It goes back to a snapshot of the workspace. */
  | { readonly kind: "back"; readonly device: string; readonly content: Content }
  /** Its images are in another folder, with all that they hold. */
  | { readonly kind: "move"; readonly device: string }
  | { readonly kind: "name"; readonly device: string; readonly name: string }
  | { readonly kind: "keep" | "apply" | "drop"; readonly device: string; readonly snapshot: string };

/** A device's content, and what its snapshots hold, whichever image of the chain they are in. */
export interface Held {
  readonly content: Content;
  readonly kept: ReadonlyMap<string, Content>;
}

export function applyEffects(effects: readonly Effect[], device: string, held: Held): Held {
  let { content } = held;
  const kept = new Map(held.kept);
  for (const effect of effects.filter((each) => slotOf(each.device) === slotOf(device))) {
    if (effect.kind === "size") content = resized(content, effect.cells);
    else if (effect.kind === "back") content = effect.content;
    else if (effect.kind === "keep") kept.set(effect.snapshot, content);
    else if (effect.kind === "drop") kept.delete(effect.snapshot);
    else if (effect.kind === "apply") content = kept.get(effect.snapshot) ?? content;
  }
  return { content, kept };
}

/** The world with its devices by the names that these give them. */
export function withNames(world: World, effects: readonly Effect[]): World {
  const devices = [...world.devices].map(([had, device]) => [nameBy(effects, had), device] as const);
  return { ...world, devices: new Map(devices) };
}

function nameBy(effects: readonly Effect[], had: string): string {
  return effects.reduce(
    (now, effect) => (effect.kind === "name" && effect.device === now ? effect.name : now),
    had,
  );
}

/** Each device is called what these have made of its name. */
export function assertNames({ devices }: World, listing: Listing, effects: readonly Effect[]): void {
  for (const had of devices.keys()) {
    const wanted = nameBy(effects, had);
    const found = listing.devices.find(({ name }) => slotOf(name) === slotOf(had))?.name;
    if (found !== undefined && found !== wanted)
      throw new Fault(`${had} is called ${found}, and not ${wanted}`);
  }
}

/** Zeros past the old end. */
function resized(content: Content, cells: number): Content {
  const other = new Uint8Array(cells);
  other.set(content.subarray(0, cells));
  return other;
}
