// internal-snapshot create, apply, delete: one moment of several disks, kept inside their images; the way back to it; and
// its end. All devices change at the commit, or none.

import {
  applySnapshot,
  type ChainLink,
  createSnapshot,
  deleteSnapshot,
  judgeApplying,
  judgeNewSnapshot,
  judgeSnapshots,
  pickSnapshot,
  type SnapshotEntry,
} from "../../format/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { Note } from "../notes/notes.ts";
import type { InternalSnapshotRequest } from "../requests/request.ts";
import type { Action, Plan } from "./plan/action.ts";
import { changeOf, planInPlace } from "./plan/in-place.ts";
import { assertNothingStandsOn } from "./plan/overlays-of.ts";
import { planMirrorResizing } from "./plan/resizing.ts";

/** Of a refcount: more snapshots than an image can have, and more compressed clusters than one of the file has. */
const WIDE_BITS = 16;

export const internalSnapshotCreate: Action<InternalSnapshotRequest> = {
  saying: {
    noun: "internal snapshot",
    done: "internal snapshot taken",
    planned: "would get an internal snapshot",
  },
  async plan({ kind, devices, snapshot: name, mayRepeat = false }, context): Promise<Plan> {
    const { storage } = context;
    const now = storage.host.now();
    // One moment for all of them.
    const moment = { dateSec: Math.floor(now / 1000), dateNsec: Math.floor((now % 1000) * 1e6) };
    const added = { name, mayRepeat, ...moment };
    return await planInPlace(kind, devices, context, async (top) => {
      await judgeNewSnapshot(top, added);
      // Of what is copied into the image at the commit as well.
      if (context.copiedInto.has(top.path)) {
        assertCountsWide(top);
        return { notes: [], after: {}, late: { image: top.path, snapshot: added } };
      }
      return {
        notes: [],
        after: {},
        redo: changeOf(top, async (link) => await createSnapshot(link, link.file, added), { discards: true }),
      };
    });
  },
};

export const internalSnapshotApply: Action<InternalSnapshotRequest> = {
  saying: {
    noun: "going back to an internal snapshot",
    done: "went back to an internal snapshot",
    planned: "would go back to an internal snapshot",
  },
  async plan({ kind, devices, snapshot }, context): Promise<Plan> {
    return await planInPlace(kind, devices, context, async (top, device) => {
      const { mirror } = device;
      await judgeApplying(top);
      const entry = await pickSnapshot(top, snapshot);
      const unread = await assertNothingStandsOn(top.path, "would show another content", context);
      const virtualSizeBytes = entry.diskSize ?? top.virtualSizeBytes;
      const twin = await planMirrorResizing(device, top, virtualSizeBytes, context);
      return {
        notes: [
          ...noteVmState(entry, { stays: true }),
          ...noteSize(top, virtualSizeBytes),
          ...unread,
          ...twin.notes,
        ],
        // What the mirror holds is not what the disk holds then: both are compared next time.
        after: { virtualSizeBytes, mirror: mirror && { ...mirror, source: [] } },
        before: twin.redo,
        reads: twin.chains,
        redo: changeOf(top, async (link) => await applySnapshot(link, link.file, entry), { discards: true }),
      };
    });
  },
};

export const internalSnapshotDelete: Action<InternalSnapshotRequest> = {
  saying: {
    noun: "deletion of an internal snapshot",
    done: "internal snapshot deleted",
    planned: "would lose an internal snapshot",
  },
  async plan({ kind, devices, snapshot }, context): Promise<Plan> {
    return await planInPlace(kind, devices, context, async (top) => {
      await judgeSnapshots(top);
      const entry = await pickSnapshot(top, snapshot);
      return {
        notes: noteVmState(entry, { stays: false }),
        after: {},
        redo: changeOf(top, async (link) => await deleteSnapshot(link, link.file, entry), {
          precedesCopies: true,
        }),
      };
    });
  },
};

/** E_REFUSED where it is known only when all is copied whether its refcounts can count one more: there is no way back then. */
function assertCountsWide({ path: image, header }: ChainLink): void {
  if (header === undefined || header.refcountBits >= WIDE_BITS) return;
  throw new ImgtxError(
    "E_REFUSED",
    `whether its refcounts of ${header.refcountBits} bits can count one more internal snapshot is known when its content has come`,
    { image, hint: "commit the transaction first" },
  );
}

function noteVmState({ name, vmStateSize }: SnapshotEntry, { stays }: { readonly stays: boolean }): Note[] {
  return vmStateSize === 0 ? [] : [{ code: "VM state", snapshot: name, sizeBytes: vmStateSize, stays }];
}

function noteSize({ virtualSizeBytes: now }: ChainLink, then: number): Note[] {
  return now === then ? [] : [{ code: "back to a size", before: now, after: then }];
}
