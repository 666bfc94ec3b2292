// amend: other properties of the active layers of devices, by the options of `qemu-img amend`, at the commit.

import { ImgtxError } from "../../errors/index.ts";
import {
  type Amendment,
  amendImage,
  type ChainLink,
  downgradeImage,
  identityOf,
  judgeAmendment,
  judgeResize,
} from "../../format/index.ts";
import type { Note } from "../notes.ts";
import type { AmendRequest } from "../request.ts";
import type { Action, Plan, PlanContext } from "./plan/action.ts";
import { changeOf, planInPlace } from "./plan/in-place.ts";
import { mirrorKeepsSize } from "./plan/mirroring.ts";
import { planResizing } from "./plan/resizing.ts";

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
        if (entry.mirror) throw mirrorKeepsSize(entry, entry.mirror);
        assertNotSmaller(top, sizeBytes);
        await judgeResize({ links: [afterUpgrade(top, amendment), ...chain.links.slice(1)] }, sizeBytes);
      }
      const resizing = isResized ? planResizing(top, sizeBytes, context) : [];
      return {
        notes: isResized ? [noteSize(top, sizeBytes)] : [],
        after: { virtualSizeBytes: sizeBytes },
        before: resizing.slice(0, -1),
        redo: changeOf(top, async (link, transaction) => {
          const { header } = link;
          if (header === undefined) throw new Error("the plan refuses raw images");
          await amendImage({ ...link, header }, amendment);
          await resizing.at(-1)?.write(link.file, transaction);
          if (amendment.version === 2 && header.version > 2) await downgradeImage({ ...link, header });
        }),
      };
    });
  },
};

function noteSize(top: ChainLink, after: number): Note {
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
    hint: "`qemu-img rebase` gives an image another one",
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
