// The gate for images that are opened again for a plan in the journal, by whoever goes on with it.

import { gateOf, type Workspace } from "../../device/index.ts";
import type { GateOptions } from "../../format/index.ts";
import { lastSeen, type PlanRecord, type TransactionState } from "../journal/index.ts";

/**
 * What was opened for the plan is trusted afterwards, whatever was allowed for that one command; and relative names of data
 * files are looked for where that command was: where this one runs may be another file of that name.
 */
export function plannedGate(
  { storage, root }: Workspace,
  state: TransactionState,
  { plan, allowPaths }: { readonly plan: PlanRecord | undefined; readonly allowPaths: readonly string[] },
): GateOptions {
  return gateOf(
    { root },
    {
      currentFolder: plan?.currentFolder ?? storage.host.currentFolder,
      allowPaths: [...allowPaths, ...lastSeen(state).keys()],
    },
  );
}
