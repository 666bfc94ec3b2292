// bitmap add, remove, clear, enable, disable, merge: the persistent bitmaps by which QEMU keeps account of what is
// written, of several disks at once. All of them change at the commit, or none.

import { requireDevice } from "../../device/index.ts";
import { type BitmapStep, type ChainLink, readBitmapDirectory } from "../../format/index.ts";
import type { Note } from "../notes/notes.ts";
import type { BitmapRequest, BitmapSource } from "../requests/request.ts";
import type { Action, Plan, PlanContext, Traits } from "./plan/action.ts";
import { activeLayer } from "./plan/chain-entry.ts";
import { planBitmapChange, planInPlace } from "./plan/in-place.ts";

function bitmapAction(saying: Traits["saying"]): Action<BitmapRequest> {
  return { saying, plan };
}

export const bitmapAdd = bitmapAction({
  noun: "bitmap",
  done: "bitmap added",
  planned: "would get a bitmap",
});

export const bitmapRemove = bitmapAction({
  noun: "removal of a bitmap",
  done: "bitmap removed",
  planned: "would lose a bitmap",
});

export const bitmapClear = bitmapAction({
  noun: "clearing of a bitmap",
  done: "bitmap cleared",
  planned: "bitmap would be cleared",
});

export const bitmapEnable = bitmapAction({
  noun: "enabling of a bitmap",
  done: "bitmap enabled",
  planned: "bitmap would be enabled",
});

export const bitmapDisable = bitmapAction({
  noun: "disabling of a bitmap",
  done: "bitmap disabled",
  planned: "bitmap would be disabled",
});

export const bitmapMerge = bitmapAction({
  noun: "merge of a bitmap",
  done: "bitmap merged",
  planned: "bitmap would be merged",
});

async function plan(request: BitmapRequest, context: PlanContext): Promise<Plan> {
  const { kind, devices } = request;
  return await planInPlace(kind, devices, context, async (top, { name: device }) => {
    const reads: Plan["chains"][number][] = [];
    const steps = await listSteps(request, async (source) => {
      const chain = await openSource(source, device, context);
      reads.push({ device, chain });
      const link = activeLayer(chain);
      return link.path === top.path ? undefined : link;
    });
    return {
      notes: await noteLost(top, request),
      after: {},
      redo: await planBitmapChange(top, steps),
      reads,
    };
  });
}

async function listSteps(
  { kind, bitmap: name, granularityBytes, isDisabled, sources }: BitmapRequest,
  open: (source: BitmapSource) => Promise<ChainLink | undefined>,
): Promise<BitmapStep[]> {
  switch (kind) {
    case "bitmap-add":
      return [{ kind: "add", name, granularityBytes, isDisabled }];
    case "bitmap-remove":
      return [{ kind: "remove", name }];
    case "bitmap-clear":
      return [{ kind: "clear", name }];
    case "bitmap-enable":
      return [{ kind: "enable", name }];
    case "bitmap-disable":
      return [{ kind: "disable", name }];
    case "bitmap-merge": {
      const steps: BitmapStep[] = [];
      for (const source of sources) {
        const isOwn = source.device === undefined && source.file === undefined;
        const link = isOwn ? undefined : await open(source);
        steps.push({ kind: "merge", name, from: source.bitmap, source: link });
      }
      return steps;
    }
  }
}

async function openSource({ device, file, format }: BitmapSource, target: string, context: PlanContext) {
  if (file !== undefined) {
    return await context.openChain(await context.canonicalPath(file, target), format, target);
  }
  const { name, ...entry } = requireDevice(context.table, device ?? target);
  return await context.openChain(entry.image, entry.format, name);
}

/** Of one that is inconsistent nobody knows any more what it would have to mark. */
async function noteLost(top: ChainLink, { kind, bitmap }: BitmapRequest): Promise<Note[]> {
  if (kind !== "bitmap-remove") return [];
  const found = (await readBitmapDirectory(top)).find(({ name }) => name === bitmap);
  return found?.isInUse ? [{ code: "inconsistent bitmap removed", bitmap }] : [];
}
