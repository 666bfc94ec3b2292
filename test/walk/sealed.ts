// What the snapshots of the workspace keep, in the walk's model: what each of their images held when its device left it. From
// then on that stays, whichever image it is in later.

import { runImgtx, type Place } from "./tools.ts";
import { type Content, Fault, isSame, openOnce, readContent, sayEnd, slotOf } from "./world.ts";

export interface SealedImage {
  readonly number: number;
  readonly device: string;
  readonly image: string;
  readonly format: string;
  readonly problems: readonly string[];
}

export type Sealed = ReadonlyMap<string, Content>;

export const keyOf = ({ number, device }: Pick<SealedImage, "number" | "device">): string =>
  `snapshot ${number} of ${slotOf(device)}`;

export async function listSealed(place: Place): Promise<SealedImage[]> {
  const ended = await runImgtx(place, ["snapshot-list", "--json"]);
  if (ended.status !== 0) throw new Fault(`snapshot-list ended with ${sayEnd(ended)}`);
  const { snapshots } = JSON.parse(ended.stdout) as {
    snapshots: { number: number; devices: Omit<SealedImage, "number">[] }[];
  };
  return snapshots.flatMap(({ number, devices }) => devices.map((one) => ({ ...one, number })));
}

/** Every one that is new with what its image holds; all others are to hold what they held. */
export function assertSealed(known: Sealed, listed: readonly SealedImage[], left: Sealed): Sealed {
  const open = openOnce();
  return new Map(
    listed.map((one) => {
      const key = keyOf(one);
      if (one.problems.length > 0) throw new Fault(`${key}: ${one.problems.join("; ")}`);
      const found = readContent(one.image, one.format, open);
      const wanted = known.get(key) ?? left.get(one.image) ?? found;
      if (!isSame(wanted, found)) throw new Fault(`${key}, in ${one.image}, holds something else`);
      return [key, found];
    }),
  );
}
