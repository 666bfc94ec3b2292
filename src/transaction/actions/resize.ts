// resize: a device's disk becomes larger or smaller, in its active layer, at the commit.

import { requireDevice } from "../../device/index.ts";
import { ImgtxError, withPlace } from "../../errors/index.ts";
import { type Chain, findDataFrom, imageOf, judgeResize } from "../../format/index.ts";
import { sayBytes } from "../../units/index.ts";
import type { Note } from "../notes/notes.ts";
import type { ResizeRequest } from "../requests/request.ts";
import { type Action, MAKES_NO_FILES, type Plan, type PlanContext } from "./plan/action.ts";
import { activeLayer, placeOf } from "./plan/chain-entry.ts";
import { assertNotFrozen } from "./plan/fencing.ts";
import { assertNothingStandsOn } from "./plan/overlays-of.ts";
import { planMirrorResizing, planResizing } from "./plan/resizing.ts";

export const resize: Action<ResizeRequest> = {
  saying: { noun: "resize", done: "resized", planned: "would be resized" },
  mayDoNothing: true,
  async plan(request, context): Promise<Plan> {
    const { device } = request;
    const entry = requireDevice(context.table, device);
    assertNotFrozen(entry, "its image may not be written to");
    const chain = await context.openChain(entry.image, entry.format, device);
    const top = activeLayer(chain);
    const before = top.virtualSizeBytes;
    const sizeBytes = request.isRelative ? before + request.sizeBytes : request.sizeBytes;
    const report = {
      kind: "resize",
      device,
      before: top.path,
      after: top.path,
      format: top.format,
      files: [],
      notes: [],
    } as const;
    const common = { ...MAKES_NO_FILES, devices: [device], allowPaths: [], chains: [{ device, chain }] };
    if (sizeBytes === before) {
      return {
        ...common,
        reports: [{ ...report, notes: [{ code: "has that size", sizeBytes }] }],
        changes: [],
      };
    }
    let unread: readonly Note[] = [];
    await withPlace({ device, image: top.path }, async () => {
      if (sizeBytes < before) unread = await assertMayShrink(chain, sizeBytes, request, context);
      await judgeResize(chain, sizeBytes, request.preallocation);
    });
    const twin = await planMirrorResizing(entry, top, sizeBytes, context);
    const redo = [...planResizing(top, sizeBytes, context, request.preallocation), ...twin.redo];
    const files = redo.map(({ link: { path } }) => ({ path, change: "change" as const }));
    return {
      ...common,
      reports: [
        {
          ...report,
          files,
          notes: [{ code: "resized", before, after: sizeBytes }, ...unread, ...twin.notes],
        },
      ],
      changes: [{ device, after: { ...entry, ...placeOf(chain), virtualSizeBytes: sizeBytes } }],
      redo,
      chains: [...common.chains, ...twin.chains],
    };
  },
};

/** E_REFUSED where anything would be lost, of the device's or of what stands on its image. Returns what was not looked at. */
async function assertMayShrink(
  chain: Chain,
  sizeBytes: number,
  { device, shrink, force }: ResizeRequest,
  context: PlanContext,
): Promise<readonly Note[]> {
  const { path, virtualSizeBytes } = activeLayer(chain);
  if (sizeBytes < 0) {
    throw new ImgtxError("E_USAGE", `it has only ${sayBytes(virtualSizeBytes)}`, { device });
  }
  if (!shrink) {
    throw new ImgtxError("E_REFUSED", "Use the --shrink option to perform a shrink operation.", {
      hint:
        `it has ${sayBytes(virtualSizeBytes)}, and would have ${sayBytes(sizeBytes)}: what is past its new end is lost. ` +
        "Shrink the file system in it first",
    });
  }
  const unread = await assertNothingStandsOn(path, "would lose what is cut off", context);
  // Closing it would close the chain, which is the engine's.
  const data = force ? undefined : await findDataFrom(imageOf(chain), sizeBytes);
  if (data === undefined) return unread;
  throw new ImgtxError("E_REFUSED", `there is data in the part that would be cut off, at ${data} first`, {
    hint: "shrink the file system in it first, and discard what is past the new end; --force cuts it off all the same",
  });
}
