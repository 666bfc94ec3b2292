// One row an action. The engine, the crash rigs and the conformance tests all go by this list.

import type { Action, Plan, PlanContext, Traits, VolumesWanted } from "./plan/action.ts";
import type { ActionKind, ActionRequest } from "../requests/request.ts";
import { amend } from "./amend.ts";
import { bitmapAdd, bitmapClear, bitmapDisable, bitmapEnable, bitmapMerge, bitmapRemove } from "./bitmap.ts";
import { deviceAdd, deviceProvision, deviceRemove, deviceRename, deviceTrust } from "./device-table.ts";
import { freeze, unfreeze } from "./freeze.ts";
import {
  internalSnapshotApply,
  internalSnapshotCreate,
  internalSnapshotDelete,
} from "./internal-snapshot.ts";
import { merge } from "./merge.ts";
import { migrate } from "./migrate.ts";
import { mirror } from "./mirror.ts";
import { mirrorCancel } from "./mirror-cancel.ts";
import { pull } from "./pull.ts";
import { rebase } from "./rebase.ts";
import { refuse } from "./refuse.ts";
import { reopen } from "./reopen.ts";
import { repair, repairUndo } from "./repair.ts";
import { resize } from "./resize.ts";
import { snapshot } from "./snapshot.ts";
import { relocate } from "./relocate/relocate.ts";
import { rollback } from "./way-back/rollback.ts";
import { snapshotDelete } from "./way-back/snapshot-delete.ts";
import { redo, undo } from "./way-back/undo.ts";

type RequestOf<Kind extends ActionKind> = Extract<ActionRequest, { readonly kind: Kind }>;

const ACTIONS: { readonly [Kind in ActionKind]: Action<RequestOf<Kind>> } = {
  snapshot,
  "snapshot-group": snapshot,
  reopen,
  "device-add": deviceAdd,
  "device-remove": deviceRemove,
  "device-rename": deviceRename,
  "device-trust": deviceTrust,
  "device-provision": deviceProvision,
  relocate,
  rollback,
  "snapshot-delete": snapshotDelete,
  undo,
  redo,
  freeze,
  unfreeze,
  resize,
  merge,
  pull,
  rebase,
  "internal-snapshot-create": internalSnapshotCreate,
  "internal-snapshot-apply": internalSnapshotApply,
  "internal-snapshot-delete": internalSnapshotDelete,
  "bitmap-add": bitmapAdd,
  "bitmap-remove": bitmapRemove,
  "bitmap-clear": bitmapClear,
  "bitmap-enable": bitmapEnable,
  "bitmap-disable": bitmapDisable,
  "bitmap-merge": bitmapMerge,
  amend,
  repair,
  "repair-undo": repairUndo,
  refuse,
  mirror,
  "mirror-cancel": mirrorCancel,
  migrate,
};

export async function planAction<Kind extends ActionKind>(
  request: RequestOf<Kind> & { readonly kind: Kind },
  context: PlanContext,
): Promise<Plan> {
  return await ACTIONS[request.kind].plan(request, context);
}

/** Volumes that are to be made first, and the request as it is to be planned then. */
export async function volumesFor<Kind extends ActionKind>(
  request: RequestOf<Kind> & { readonly kind: Kind },
  context: PlanContext,
): Promise<VolumesWanted | undefined> {
  return await ACTIONS[request.kind].volumes?.(request, context);
}

/** Devices whose mirrors the request wants read back after the commit. */
export function verifiedBy<Kind extends ActionKind>(
  request: RequestOf<Kind> & { readonly kind: Kind },
): readonly string[] {
  return ACTIONS[request.kind].verifies?.(request) ?? [];
}

export function traitsOf(kind: ActionKind): Traits {
  return ACTIONS[kind];
}
