// Snapshots that need images which get another content, or go, because the operator asked for that: the device itself gives
// its own up. What another device's keep, or one of a branch that it has left, is refused.

import { filesOfEntry, type GivenUp, type SealedDevice } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { pathsOfLink } from "../../../format/index.ts";
import { withName } from "../../note-words.ts";
import type { Note } from "../../notes.ts";
import type { PlanContext } from "./action.ts";
import type { LayersToMerge } from "./layers-to-merge.ts";

export interface GivingUp {
  readonly givesUp: GivenUp;
  readonly notes: readonly Note[];
}

/** E_IN_USE where a snapshot needs them that is not the device's own to give up. */
export async function planGivingUp(
  { device, above, merged, into, below }: LayersToMerge,
  { table, snapshots, takenHere }: Pick<PlanContext, "table" | "snapshots" | "takenHere">,
): Promise<GivingUp> {
  const images = [...merged, into].flatMap(pathsOfLink);
  const own = new Set([...above, ...merged, into, ...below].map(({ path }) => path));
  const givenUp = new Set<number>();
  const isOnThem = ({ chain }: SealedDevice): boolean =>
    chain.flatMap(filesOfEntry).some(({ image }) => images.includes(image));
  // They stand in the order of their numbers: what one is on was looked at before.
  const isOnGivenUp = (one: SealedDevice): boolean =>
    one.device === device && one.below !== null && givenUp.has(one.below);
  const found: GivenUp["snapshots"][number][] = [];
  const notes: Note[] = [];
  for (const ref of table.snapshots) {
    const { number, name, devices } = await snapshots.read(ref);
    for (const sealed of devices.filter((one) => isOnThem(one) || isOnGivenUp(one))) {
      if (sealed.device !== device || !own.has(sealed.chain[0]?.image ?? "")) {
        throw keptByOthers(number, name, sealed, into.path);
      }
      givenUp.add(number);
      found.push({ number, devices: devices.map((one) => one.device) });
      notes.push({ code: "snapshot given up", number, name, device });
    }
  }
  for (const taken of takenHere) {
    if (!taken.devices.includes(device) || !images.some((image) => taken.images.has(image))) continue;
    notes.push({ code: "snapshot given up", number: null, name: taken.name, device });
  }
  return { givesUp: { device, images, snapshots: found }, notes };
}

function keptByOthers(
  number: number,
  name: string | null,
  { device, chain: [top] }: SealedDevice,
  image: string,
): ImgtxError {
  return new ImgtxError(
    "E_IN_USE",
    `${withName(`snapshot ${number}`, name)} keeps it, of '${device}', in ${top?.image ?? image}, and would show another content`,
    {
      image,
      hint: `\`imgtx snapshot-show ${number}\` shows it; make a snapshot, and merge what is written from then on instead`,
    },
  );
}
