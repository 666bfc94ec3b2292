// A larger or a smaller disk in an image, and an overlay that is emptied, as actions plan it.

import type { DeviceEntry } from "../../../device/index.ts";
import { withPlace } from "../../../errors/index.ts";
import {
  type ChainLink,
  emptyImage,
  judgeResize,
  type Preallocated,
  preallocatedBeside,
  type Preallocation,
  resizeImage,
} from "../../../format/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Note } from "../../notes/notes.ts";
import type { Plan, PlanContext } from "./action.ts";
import { activeLayer } from "./chain-entry.ts";
import { assertNothingStandsOn } from "./overlays-of.ts";

/** The image's change, and before it that of its data file, which the image's change writes to. */
export function planResizing(
  link: ChainLink,
  sizeBytes: number,
  { storage, gate }: Pick<PlanContext, "storage" | "gate">,
  preallocation: Preallocation = "off",
): ImageChange[] {
  const { path, format } = link;
  const write = async () => await resizeImage(storage, path, { format, gate, preallocation }, sizeBytes);
  const discards = sizeBytes < link.virtualSizeBytes;
  // What is copied would have no room in a smaller one.
  const traits = { discards, precedesCopies: !discards };
  const beside = preallocatedBeside(link, sizeBytes, preallocation);
  return [...ofDataFile(link, traits, beside), { ...traits, link, write }];
}

/** What a device's mirror takes where the device gets another size than its active layer has: the same. */
export async function planMirrorResizing(
  { name: device, mirror }: DeviceEntry,
  { virtualSizeBytes: before }: ChainLink,
  sizeBytes: number,
  context: PlanContext,
): Promise<{ readonly redo: ImageChange[]; readonly chains: Plan["chains"]; readonly notes: Note[] }> {
  if (!mirror || sizeBytes === before) return { redo: [], chains: [], notes: [] };
  const { image, format } = mirror;
  const hint = `\`imgtx mirror --cancel ${device}\` forgets the mirror; then make another one afterwards`;
  return await withPlace({ device, image, hint }, async () => {
    const chain = await context.openChain(image, format, device);
    const twin = activeLayer(chain);
    const isSmaller = sizeBytes < twin.virtualSizeBytes;
    const unread = isSmaller ? await assertNothingStandsOn(image, "would lose what is cut off", context) : [];
    await judgeResize(chain, sizeBytes);
    const redo = sizeBytes === twin.virtualSizeBytes ? [] : planResizing(twin, sizeBytes, context);
    return { redo, chains: [{ device, chain }], notes: [{ code: "mirror resized", image }, ...unread] };
  });
}

/** An overlay that holds nothing any more, when all of it is copied to what it stands on. */
export function planEmptying(
  link: ChainLink,
  { storage, gate }: Pick<PlanContext, "storage" | "gate">,
): ImageChange[] {
  const { path, format } = link;
  const traits = { isLast: true, discards: true };
  const write = async () => await emptyImage(storage, path, { format, gate });
  return [...ofDataFile(link, { ...traits, isOwned: true }), { ...traits, link, write }];
}

function ofDataFile(
  link: ChainLink,
  traits: Omit<ImageChange, "link" | "write">,
  beside?: Preallocated,
): ImageChange[] {
  const { dataFile } = link;
  if (!dataFile) return [];
  const write: ImageChange["write"] = () => Promise.resolve(beside);
  return [{ ...traits, link: { ...link, ...dataFile, header: undefined }, write }];
}
