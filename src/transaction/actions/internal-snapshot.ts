// internal-snapshot create, apply, delete: one moment of several disks, kept inside their images; the way back to it; and
// its end. All devices change at the commit, or none.

import { type DeviceEntry, requireDevice } from "../../device/index.ts";
import { withPlace } from "../../errors/index.ts";
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
import type { ImageChange } from "../images/redo.ts";
import type { Note } from "../notes.ts";
import type { ActionKind, InternalSnapshotRequest } from "../request.ts";
import { type Action, assertNamedOnce, MAKES_NO_FILES, type Plan, type PlanContext } from "./plan/action.ts";
import { activeLayer, placeOf } from "./plan/chain-entry.ts";
import { assertNotFrozen } from "./plan/fencing.ts";
import { mirrorKeepsSize } from "./plan/mirroring.ts";
import { assertNothingStandsOn } from "./plan/overlays-of.ts";

/** What becomes of one device. */
interface Part {
  readonly notes: readonly Note[];
  readonly after: Partial<DeviceEntry>;
  /** The link's file is the staged one. */
  write(link: ChainLink): Promise<void>;
}

type PlanPart = (top: ChainLink, entry: DeviceEntry) => Promise<Part>;

export const internalSnapshotCreate: Action<InternalSnapshotRequest> = {
  saying: {
    noun: "internal snapshot",
    done: "internal snapshot taken",
    planned: "would get an internal snapshot",
  },
  async plan({ kind, devices, snapshot: name }, context): Promise<Plan> {
    const { storage } = context;
    const now = storage.host.now();
    // One moment for all of them.
    const moment = { dateSec: Math.floor(now / 1000), dateNsec: Math.floor((now % 1000) * 1e6) };
    return await planGroup(kind, devices, context, async (top) => {
      await judgeNewSnapshot(top, name);
      return {
        notes: [],
        after: {},
        write: async (link) => await createSnapshot(link, link.file, { name, ...moment }),
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
    return await planGroup(kind, devices, context, async (top, device) => {
      const { mirror } = device;
      await judgeApplying(top);
      const entry = await pickSnapshot(top, snapshot);
      await assertNothingStandsOn(top.path, "would show another content", context);
      const virtualSizeBytes = entry.diskSize ?? top.virtualSizeBytes;
      if (mirror && virtualSizeBytes !== top.virtualSizeBytes) throw mirrorKeepsSize(device, mirror);
      return {
        notes: [...noteVmState(entry, { stays: true }), ...noteSize(top, virtualSizeBytes)],
        // What the mirror holds is not what the disk holds then: both are compared next time.
        after: { virtualSizeBytes, mirror: mirror && { ...mirror, source: [] } },
        write: async (link) => await applySnapshot(link, link.file, entry),
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
    return await planGroup(kind, devices, context, async (top) => {
      await judgeSnapshots(top);
      const entry = await pickSnapshot(top, snapshot);
      return {
        notes: noteVmState(entry, { stays: false }),
        after: {},
        write: async (link) => await deleteSnapshot(link, link.file, entry),
      };
    });
  },
};

async function planGroup(
  kind: ActionKind,
  devices: readonly string[],
  context: PlanContext,
  planPart: PlanPart,
): Promise<Plan> {
  assertNamedOnce(devices);
  const planned = [];
  for (const device of devices) planned.push(await planOne(kind, device, context, planPart));
  return {
    ...MAKES_NO_FILES,
    devices,
    allowPaths: [],
    reports: planned.map(({ report }) => report),
    changes: planned.map(({ change }) => change),
    redo: planned.map(({ redo }) => redo),
    chains: planned.map(({ chain }) => chain),
  };
}

async function planOne(kind: ActionKind, device: string, context: PlanContext, planPart: PlanPart) {
  const entry = requireDevice(context.table, device);
  assertNotFrozen(entry, "its image may not be written to");
  const chain = await context.openChain(entry.image, entry.format, device);
  const top = activeLayer(chain);
  const { path, format } = top;
  const place = { device, image: path };
  const part = await withPlace(place, async () => await planPart(top, entry));
  const files = [{ path, change: "change" as const }];
  const redo: ImageChange = {
    link: top,
    write: async (file) => {
      const link = { ...top, file, stat: await file.stat() };
      await withPlace(place, async () => await part.write(link));
    },
  };
  return {
    chain: { device, chain },
    change: { device, after: { ...entry, ...placeOf(chain), ...part.after } },
    redo,
    report: { kind, device, before: path, after: path, format, files, notes: part.notes },
  };
}

function noteVmState({ name, vmStateSize }: SnapshotEntry, { stays }: { readonly stays: boolean }): Note[] {
  return vmStateSize === 0 ? [] : [{ code: "VM state", snapshot: name, sizeBytes: vmStateSize, stays }];
}

function noteSize({ virtualSizeBytes: now }: ChainLink, then: number): Note[] {
  return now === then ? [] : [{ code: "back to a size", before: now, after: then }];
}
