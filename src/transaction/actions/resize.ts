// resize: a device's disk becomes larger or smaller, in its active layer, at the commit. amend: other properties of the
// active layers of devices, by the options of `qemu-img amend`.

import { requireDevice } from "../../device/index.ts";
import { ImgtxError, withPlace } from "../../errors/index.ts";
import {
  type Amendment,
  amendImage,
  type Chain,
  type ChainLink,
  downgradeImage,
  findDataFrom,
  identityOf,
  imageOf,
  judgeAmendment,
  judgeResize,
} from "../../format/index.ts";
import { sayBytes } from "../../units/index.ts";
import type { Note } from "../notes.ts";
import type { AmendRequest, ResizeRequest } from "../request.ts";
import { type Action, MAKES_NO_FILES, type Plan, type PlanContext } from "./plan/action.ts";
import { activeLayer, placeOf } from "./plan/chain-entry.ts";
import { assertNotFrozen } from "./plan/fencing.ts";
import { changeOf, planInPlace } from "./plan/in-place.ts";
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
    let unread: Note[] = [];
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
): Promise<Note[]> {
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

export const amend: Action<AmendRequest> = {
  saying: { noun: "amendment", done: "amended", planned: "would be amended" },
  async plan({ kind, devices, amendment, sizeBytes: wanted, ...backing }, context): Promise<Plan> {
    return await planInPlace(kind, devices, context, async (top, entry, chain) => {
      assertSameBacking(top, backing);
      await assertSameDataFile(top, amendment, context);
      await judgeAmendment(top, amendment);
      const sizeBytes = wanted ?? top.virtualSizeBytes;
      const isResized = sizeBytes !== top.virtualSizeBytes;
      if (isResized) {
        assertNotSmaller(top, sizeBytes);
        await judgeResize({ links: [afterUpgrade(top, amendment), ...chain.links.slice(1)] }, sizeBytes);
      }
      const resizing = isResized ? planResizing(top, sizeBytes, context) : [];
      const twin = await planMirrorResizing(entry, top, sizeBytes, context);
      return {
        notes: [...(isResized ? [noteResized(top, sizeBytes)] : []), ...twin.notes],
        after: { virtualSizeBytes: sizeBytes },
        before: [...resizing.slice(0, -1), ...twin.redo],
        reads: twin.chains,
        redo: changeOf(
          top,
          async (link, transaction) => {
            const { header } = link;
            if (header === undefined) throw new Error("the plan refuses raw images");
            await amendImage({ ...link, header }, amendment);
            await resizing.at(-1)?.write(link.file, transaction);
            if (amendment.version === 2 && header.version > 2) await downgradeImage({ ...link, header });
          },
          // Version 2 has no place for the fence that is up while content is copied.
          { precedesCopies: amendment.version !== 2 },
        ),
      };
    });
  },
};

function noteResized(top: ChainLink, after: number): Note {
  return { code: "resized", before: top.virtualSizeBytes, after };
}

/** It comes before the size. */
function afterUpgrade({ header, ...top }: ChainLink, { version }: Amendment): ChainLink {
  return { ...top, header: header && version === 3 ? { ...header, version } : header };
}

function assertNotSmaller({ virtualSizeBytes }: ChainLink, sizeBytes: number): void {
  if (sizeBytes >= virtualSizeBytes) return;
  throw new ImgtxError("E_REFUSED", "an amendment makes no disk smaller", {
    hint: "`imgtx resize --shrink` does, and looks at what would be cut off",
  });
}

function assertSameBacking(
  { header }: ChainLink,
  { backingFileName, backingFormat }: Pick<AmendRequest, "backingFileName" | "backingFormat">,
): void {
  const isSame =
    (backingFileName === undefined || backingFileName === (header?.backingFileName ?? "")) &&
    (backingFormat === undefined || backingFormat === (header?.backingFormat ?? ""));
  if (isSame) return;
  throw new ImgtxError("E_UNSUPPORTED", "Cannot amend the backing file", {
    field: "backing_file_name",
    hint: "`imgtx rebase` gives it another one",
  });
}

/** The name is QEMU's to find: relative to whatever folder it is in. And the file has to be the one that it is now. */
async function assertSameDataFile(
  { dataFile }: ChainLink,
  { dataFileName: name }: Amendment,
  { storage }: PlanContext,
): Promise<void> {
  if (name === undefined || dataFile === undefined) return;
  if (!name.startsWith("/")) {
    throw new ImgtxError("E_REFUSED", "QEMU would look for that data file in its current folder", {
      field: "data_file",
      hint: "give its absolute path",
    });
  }
  const [now, then] = [await dataFile.file.stat(), await storage.stat(name)];
  if (then && identityOf(then) === identityOf(now)) return;
  throw new ImgtxError("E_REFUSED", `'${name}' is another file than the one that has the disk's data`, {
    field: "data_file",
    hint: "an amendment gives the data file another name, and copies nothing",
  });
}
