// freeze: nobody but imgtx may open the device until unfreeze, through reboots. unfreeze: its fences are lifted at the
// commit, and its images are byte by byte what they were.

import { type DeviceEntry, requireDevice } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { FreezeRequest, UnfreezeRequest } from "../requests/request.ts";
import { type Action, type Plan, type PlanContext, planEach } from "./plan/action.ts";
import { placeOf } from "./plan/chain-entry.ts";
import {
  assertNotFrozen,
  fenceActiveLayer,
  findWrites,
  liftFences,
  liftForgottenFences,
} from "./plan/fencing.ts";
import { openUnlessLost } from "./plan/lost-device.ts";

export const freeze: Action<FreezeRequest> = {
  saying: { noun: "freeze", done: "frozen", planned: "would be frozen" },
  takenBackBy: "unfreeze DEVICES",
  async plan({ devices, strict }, context): Promise<Plan> {
    const { host } = context.storage;
    const [since, by] = [new Date(host.now()).toISOString(), host.userName];
    return await planEach(devices, async (device) => {
      const entry = requireDevice(context.table, device);
      assertNotFrozen(entry, "of two that freeze it, the first to unfreeze would take it from the other");
      const chain = await context.openChain(entry.image, entry.format, device);
      const { fences, redo, files, notes } = await fenceActiveLayer(device, chain, context, strict);
      return {
        redo,
        chain: { device, chain },
        change: { device, after: { ...entry, ...placeOf(chain), frozen: { since, by, fences } } },
        report: {
          kind: "freeze",
          device,
          before: entry.image,
          after: entry.image,
          format: entry.format,
          files,
          notes: [...chain.links.flatMap((link) => link.warnings), ...notes],
        },
      };
    });
  },
};

export const unfreeze: Action<UnfreezeRequest> = {
  saying: { noun: "unfreeze", done: "unfrozen", planned: "would be unfrozen" },
  takenBackBy: "freeze DEVICES",
  async plan({ devices, force }, context): Promise<Plan> {
    return await planEach(devices, async (device) => await planOne(device, force, context));
  },
};

async function planOne(device: string, isForced: boolean, context: PlanContext) {
  const entry = requireDevice(context.table, device);
  const { frozen } = entry;
  if (!frozen && !isForced) throw notFrozen(entry);
  const command = `imgtx unfreeze --force ${device}`;
  const chain = await openUnlessLost(entry, context, { isForced, command, mayBeHalfChanged: isForced });
  if (!chain) return letGo(entry);
  const known = await liftFences(entry, frozen?.fences ?? [], chain, { isForced });
  const forgotten = isForced ? await liftForgottenFences(entry, chain, context.table) : undefined;
  const redo = [...known.redo, ...(forgotten?.redo ?? [])];
  if (!frozen && redo.length === 0) throw notFrozen(entry);
  return {
    redo,
    chain: { device, chain },
    change: { device, after: { ...entry, ...placeOf(chain), frozen: null } },
    report: {
      kind: "unfreeze" as const,
      device,
      before: entry.image,
      after: entry.image,
      format: entry.format,
      files: [...known.files, ...(forgotten?.files ?? [])],
      notes: [...(frozen ? findWrites(entry.chain, chain) : []), ...known.notes, ...(forgotten?.notes ?? [])],
    },
  };
}

/** Its image is lost, and its fence with it. */
function letGo(entry: DeviceEntry) {
  const { name: device, image, format, frozen } = entry;
  if (!frozen) throw notFrozen(entry);
  return {
    redo: [],
    chain: undefined,
    change: { device, after: { ...entry, frozen: null } },
    report: {
      kind: "unfreeze" as const,
      device,
      before: image,
      after: image,
      format,
      files: [],
      notes: frozen.fences.map((fence) => ({ code: "keeps its fence", image: fence.image, device }) as const),
    },
  };
}

function notFrozen({ name, image }: DeviceEntry): ImgtxError {
  return new ImgtxError("E_REFUSED", "it is not frozen", {
    device: name,
    image,
    hint: "`imgtx device list` says which devices are; a fence that no device knows of is lifted with --force",
  });
}
