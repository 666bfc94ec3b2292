// The plan of an action that changes the active layer of each device in place, by a redo log; and changes of images as
// actions plan them.

import { type DeviceEntry, requireDevice } from "../../../device/index.ts";
import { withPlace } from "../../../errors/index.ts";
import {
  type BitmapStep,
  type Chain,
  type ChainLink,
  changeBitmaps,
  judgeBitmaps,
} from "../../../format/index.ts";
import type { HowToOpen } from "../../images/opened-images.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Note } from "../../notes/notes.ts";
import type { ActionKind } from "../../requests/request.ts";
import { assertNamedOnce, MAKES_NO_FILES, type Plan, type PlanContext } from "./action.ts";
import { activeLayer, placeOf } from "./chain-entry.ts";
import { assertNotFrozen } from "./fencing.ts";

/** What becomes of one device. */
export interface ChangedDevice {
  readonly notes: readonly Note[];
  readonly after: Partial<DeviceEntry>;
  /** Neither: there is nothing to change. */
  readonly redo?: ImageChange;
  readonly late?: NonNullable<Plan["late"]>[number];
  /** Changes of other files, that its own makes. */
  readonly before?: readonly ImageChange[];
  /** Chains beside its own that the change reads. */
  readonly reads?: Plan["chains"];
}

/** One after the other; errors of planOne get the place of its device. */
export async function planInPlace(
  kind: ActionKind,
  devices: readonly string[],
  context: PlanContext,
  planOne: (top: ChainLink, entry: DeviceEntry, chain: Chain) => Promise<ChangedDevice>,
  how: HowToOpen = {},
): Promise<Plan> {
  assertNamedOnce(devices);
  const planned = [];
  for (const device of devices) {
    const entry = requireDevice(context.table, device);
    assertNotFrozen(entry, "its image may not be written to");
    const chain = await context.openChain(entry.image, entry.format, device, [], how);
    const top = activeLayer(chain);
    const place = { device, image: top.path };
    planned.push({
      entry,
      chain,
      top,
      ...(await withPlace(place, async () => await planOne(top, entry, chain))),
    });
  }
  return {
    ...MAKES_NO_FILES,
    devices,
    allowPaths: [],
    reports: planned.map(
      ({ entry: { name: device }, top: { path, format }, notes, before = [], redo, late }) => {
        const changed = [...before, ...(redo ? [redo] : [])].map(({ link }) => link.path);
        const files = [...changed, ...(late ? [late.image] : [])].map((image) => ({
          path: image,
          change: "change" as const,
        }));
        return { kind, device, before: path, after: path, format, files, notes };
      },
    ),
    late: planned.flatMap(({ late }) => late ?? []),
    changes: planned.flatMap(({ entry, chain, after, redo, late }) => {
      if (redo === undefined && late === undefined) return [];
      return { device: entry.name, after: { ...entry, ...placeOf(chain), ...after } };
    }),
    redo: planned.flatMap(({ entry: { name: device }, before = [], redo }) => {
      if (redo === undefined) return [];
      const place = { device, image: redo.link.path };
      const write: ImageChange["write"] = async (file, transaction) => {
        await withPlace(place, async () => await redo.write(file, transaction));
      };
      return [...before, { ...redo, write }];
    }),
    chains: planned.flatMap(({ entry: { name: device }, chain, reads = [] }) => [
      { device, chain },
      ...reads,
    ]),
  };
}

/** A change that is written over the image as the statements before leave it: that is the file of its link then. */
export function changeOf(
  link: ChainLink,
  write: (link: ChainLink, transaction: string) => Promise<void>,
  traits: Pick<ImageChange, "discards" | "precedesCopies"> = {},
): ImageChange {
  return {
    ...traits,
    link,
    write: async (file, transaction) => {
      await write({ ...link, file, stat: await file.stat() }, transaction);
    },
  };
}

/**
 * A change of its persistent bitmaps: judged by the plan, which may have long work before it. stepsIn: by the transaction's
 * id, where that is in a name. Errors are those of judgeBitmaps.
 */
export async function planBitmapChange(
  link: ChainLink,
  steps: readonly BitmapStep[],
  stepsIn: (transaction: string) => readonly BitmapStep[] = () => steps,
): Promise<ImageChange> {
  await judgeBitmaps(link, steps);
  const write = async (staged: ChainLink, transaction: string): Promise<void> => {
    await changeBitmaps(staged, stepsIn(transaction), { isCounted: true });
  };
  return changeOf(link, write, { precedesCopies: true });
}
