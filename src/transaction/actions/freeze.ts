// freeze: nobody but imgtx may open the device until unfreeze, through reboots.

import { requireDevice } from "../../device/index.ts";
import { type Action, type Plan, planEach } from "./plan/action.ts";
import { placeOf } from "./plan/chain-entry.ts";
import { assertNotFrozen, fenceActiveLayer } from "./plan/fencing.ts";
import type { FreezeRequest } from "../request.ts";

export const freeze: Action<FreezeRequest> = {
  saying: { noun: "freeze", done: "frozen", planned: "would be frozen" },
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
