// Snapshots that need images which get another content, or go, because the operator asked for that: the device itself gives
// its own up. What another device's keep, or one of a branch that it has left, is refused. One that keeps an image above them
// keeps it: that shows what it showed, and the record learns what it stands on then.

import {
  type ChainEntry,
  filesOfEntry,
  type GivenUp,
  type SealedDevice,
  type Snapshot,
} from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { type ChainLink, pathsOfLink } from "../../../format/index.ts";
import { withName } from "../../notes/note-words.ts";
import type { Note } from "../../notes/notes.ts";
import type { PlanContext } from "./action.ts";
import { chainEntriesOf } from "./chain-entry.ts";
import type { LayersToMerge } from "./layers-to-merge.ts";

export interface GivingUp {
  /** By the devices that snapshots keep. */
  readonly givesUp: readonly GivenUp[];
  readonly notes: readonly Note[];
}

/** What an image is to stand on, and the name that its header is to have. */
export interface NewPlace {
  readonly below: readonly ChainLink[];
  readonly name: string | undefined;
}

/** places: of what stands on the images, by its path. E_IN_USE where a snapshot needs them that is not the device's own to give up. */
export async function planGivingUp(
  { device, above, merged, into, below }: LayersToMerge,
  places: ReadonlyMap<string, NewPlace>,
  { table, snapshots, takenHere }: Pick<PlanContext, "table" | "snapshots" | "takenHere">,
): Promise<GivingUp> {
  const images = [...merged, into].flatMap(pathsOfLink);
  const own = new Set([...above, ...merged, into, ...below].map(({ path }) => path));
  const givenUp = new Set<number>();
  const isThem = (entry: ChainEntry): boolean =>
    filesOfEntry(entry).some(({ image }) => images.includes(image));
  // They stand in the order of their numbers: what one is on was looked at before.
  const isOnThem = ({ device: name, chain, below: keeper }: SealedDevice): boolean =>
    chain.some(isThem) || (name === device && keeper !== null && givenUp.has(keeper));
  const found: GivenUp["snapshots"][number][] = [];
  const renewed = new Map<string, Snapshot[]>();
  const notes: Note[] = [];
  for (const ref of table.snapshots) {
    const snapshot = await snapshots.read(ref);
    const { number, name, devices } = snapshot;
    for (const sealed of devices.filter(isOnThem)) {
      const after = renew(sealed, await snapshots.chainOf(snapshot, sealed.device), { isThem, places });
      if (after) {
        const known = renewed.get(sealed.device) ?? [];
        renewed.set(sealed.device, [...known, { ...snapshot, devices: [after] }]);
        continue;
      }
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
  const others = [...renewed].flatMap(([name, list]) =>
    name === device ? [] : [{ device: name, images: [], snapshots: [], renewed: list }],
  );
  const mine = renewed.get(device);
  const givesUp = { device, images, snapshots: found, ...(mine && { renewed: mine }) };
  return { givesUp: [givesUp, ...others], notes };
}

/** What a snapshot keeps when what stands on the images has its new place. Undefined: it keeps one of them, or what has none. */
function renew(
  { below: _below, ...sealed }: SealedDevice,
  chain: readonly ChainEntry[],
  {
    isThem,
    places,
  }: { readonly isThem: (entry: ChainEntry) => boolean; readonly places: ReadonlyMap<string, NewPlace> },
): SealedDevice | undefined {
  const depth = chain.findIndex(isThem);
  const place = places.get(chain[depth - 1]?.image ?? "");
  if (!place) return undefined;
  const [first, ...rest] = place.below;
  const links = first ? [{ ...first, name: place.name }, ...rest] : [];
  const made = new Set(chain.flatMap(({ image, isMade }) => (isMade ? [image] : [])));
  const entries = chainEntriesOf({ links });
  return {
    ...sealed,
    chain: [
      ...chain.slice(0, depth).map(({ sealedBy: _sealedBy, ...entry }) => entry),
      ...entries.map((entry) => ({ ...entry, ...(made.has(entry.image) && { isMade: true }) })),
    ],
    below: null,
  };
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
