// One row an action. The engine, the crash rigs and the conformance tests all go by this list.

import type { Plan, PlanContext } from "../action.ts";
import type { ActionRequest } from "../request.ts";
import { deviceAdd, deviceRemove } from "./device-table.ts";
import { deviceTrust } from "./device-trust.ts";
import { freeze } from "./freeze.ts";
import { migrate } from "./migrate.ts";
import { mirror } from "./mirror.ts";
import { mirrorCancel } from "./mirror-cancel.ts";
import { refuse } from "./refuse.ts";
import { reopen } from "./reopen.ts";
import { rollback } from "./rollback.ts";
import { snapshot } from "./snapshot.ts";
import { unfreeze } from "./unfreeze.ts";

export async function planAction(request: ActionRequest, context: PlanContext): Promise<Plan> {
  switch (request.kind) {
    case "snapshot":
    case "snapshot-group":
      return await snapshot.plan(request, context);
    case "reopen":
      return await reopen.plan(request, context);
    case "device-add":
      return await deviceAdd.plan(request, context);
    case "device-remove":
      return await deviceRemove.plan(request, context);
    case "device-trust":
      return await deviceTrust.plan(request, context);
    case "rollback":
      return await rollback.plan(request, context);
    case "freeze":
      return await freeze.plan(request, context);
    case "unfreeze":
      return await unfreeze.plan(request, context);
    case "refuse":
      return await refuse.plan(request, context);
    case "mirror":
      return await mirror.plan(request, context);
    case "mirror-cancel":
      return await mirrorCancel.plan(request, context);
    case "migrate":
      return await migrate.plan(request, context);
  }
}
