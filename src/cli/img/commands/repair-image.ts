// What `check -r` does before it checks: the repair, as a transaction. It is told once it is durable.

import {
  changesSomething,
  type ChainLink,
  type CountRepair,
  holdImages,
  type OpenedImage,
  planRepairs,
  type Repairs,
  type RepairScope,
} from "../../../format/index.ts";
import type { ImgInvocation } from "../command.ts";
import { explained } from "../images/images.ts";
import { changeImage, type ImageInPlace, lookAtImage } from "../images/in-place.ts";
import { lockWaiting } from "../images/lock-waiting.ts";
import { failure } from "../grammar/messages.ts";

export interface Fixed {
  readonly leaksFixed: number;
  readonly corruptionsFixed: number;
}

/** What was repaired; the lines of it, each as check has it, go to the sink. Undefined for an image that is raw. */
export async function repairImage(
  invocation: ImgInvocation,
  operand: string,
  scope: RepairScope,
  sink: (line: string) => void,
): Promise<Fixed | undefined> {
  if (invocation.input.flag("--force-share")) {
    throw failure(`Could not open '${operand}': force-share=on can only be used with read-only images`);
  }
  const look = async ({ chain }: OpenedImage, found: ImageInPlace) => ({
    place: found,
    repairs: await planOf(invocation, operand, chain.links[0], scope),
  });
  const { place, repairs } = await lookAtImage(invocation, operand, look, { mayLackRefcounts: true });
  if (repairs === undefined) return undefined;
  const { counts, rebuilds, flags, flagLines, snapshots, cut } = repairs;
  if (!changesSomething(repairs)) return { leaksFixed: 0, corruptionsFixed: 0 };
  await changeImage(invocation, place, (device) => [{ kind: "repair", devices: [device], scope }]);
  for (const line of cut?.lines ?? []) sink(line);
  let leaksFixed = 0;
  const tell = (what: string, { cluster, before, after }: CountRepair): void => {
    sink(`${what} cluster ${cluster} refcount=${before} reference=${after}`);
  };
  for (const count of counts) {
    const isLeak = count.before > count.after;
    if (isLeak) leaksFixed += 1;
    tell(isLeak ? "Leaked" : "ERROR", count);
  }
  if (rebuilds) sink("Rebuilding refcount structure");
  for (const count of counts) tell("Repairing", count);
  for (const line of flagLines) sink(line.replace("ERROR", "Repairing"));
  const others = flags + snapshots + (cut?.lines.length ?? 0) + repairs.blockErrors;
  return { leaksFixed, corruptionsFixed: counts.length - leaksFixed + others };
}

/** Nobody else has the image meanwhile: what a guest is amid changing would look like damage. */
async function planOf(
  invocation: ImgInvocation,
  operand: string,
  top: ChainLink | undefined,
  scope: RepairScope,
): Promise<Repairs | undefined> {
  if (top?.header === undefined) return undefined;
  const { storage } = invocation.context;
  const image = { file: top.file, isWritten: true };
  await explained(invocation, operand, () => holdImages(storage, [image], lockWaiting(invocation)));
  return await planRepairs(top, scope);
}
