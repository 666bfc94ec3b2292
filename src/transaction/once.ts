// `--txn-id`: what was asked for by an id is done once. The commit mark has the id and a digest of what was asked for, and so
// has the table that it makes, and the history after that: a crash leaves all of it, or none.

import { createHash } from "node:crypto";
import { findAppliedOnce, readTable, type Workspace } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { describeApplied } from "./describe/describe.ts";
import type { ActionRequest, Once, RunOptions } from "./requests/request.ts";
import type { Outcome } from "./describe/results.ts";

/** Undefined where no id was given. */
export function onceOf({ requestId: id }: RunOptions, requests: readonly ActionRequest[]): Once | undefined {
  if (id === undefined) return undefined;
  return { id, digest: createHash("sha256").update(JSON.stringify(requests)).digest("hex") };
}

/**
 * What an earlier command did by that id. Undefined: none did anything. E_REFUSED where something else was asked for by it, and
 * where it can't be told.
 */
export async function findApplied(
  workspace: Workspace,
  once: Once | undefined,
  dryRun: boolean,
): Promise<Outcome | undefined> {
  if (once === undefined) return undefined;
  const table = await readTable(workspace);
  const head = await findAppliedOnce(workspace, table, once.id);
  if (!head) return undefined;
  if (head.once?.digest === once.digest) return await describeApplied(workspace, table, head, dryRun);
  throw new ImgtxError(
    "E_REFUSED",
    `'${once.id}' is the id of something else, which generation ${head.generation} did: ${head.summary}`,
    { hint: "give what is not the same another --txn-id" },
  );
}

/** E_TRANSACTION: what joins a transaction is applied with that, by whoever commits it. */
export function assertAlone(once: Once | undefined, transaction: string | undefined): void {
  if (once === undefined || transaction === undefined) return;
  throw new ImgtxError(
    "E_TRANSACTION",
    `--txn-id is for a transaction of its own, and ${transaction} is open`,
    {
      hint: "commit or abort that one, or keep out of it with `--txn none`",
    },
  );
}
