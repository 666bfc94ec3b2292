// Opens a transaction: its journal comes into being under the workspace lock.

import { describeWorker, underWorkspaceLock, type Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { NO_TRANSACTION, sayWhose } from "../choose.ts";
import { type BeginRecord, beginRecordOf, Journal } from "../journal/index.ts";
import { findOpen } from "./pick-journal.ts";
import type { LockWait } from "../requests/request.ts";
import type { Work } from "./work.ts";

export async function createJournal(
  workspace: Workspace,
  choice: { id: string; name: string | null; onError: "abort" | "keep"; owned: boolean },
  wait: LockWait,
): Promise<Journal> {
  return await underWorkspaceLock(workspace, wait, async () => {
    if (choice.name !== null) await assertNameFree(workspace, choice.name);
    const owner = choice.owned ? await describeWorker(workspace) : null;
    return await Journal.create(
      workspace,
      beginRecordOf(workspace, { ...choice, implicit: false, owner }),
      [],
    );
  });
}

/** The first record of a transaction that a single command begins and ends. */
export function beginAlone({ workspace, id }: Pick<Work, "workspace" | "id">): BeginRecord {
  const alone = { name: null, onError: "abort", implicit: true, owned: false, owner: null } as const;
  return beginRecordOf(workspace, { id, ...alone });
}

/** One that is open may be named by its id or by its name: neither may mean another one. */
async function assertNameFree(workspace: Workspace, name: string): Promise<void> {
  if (name === NO_TRANSACTION) {
    throw new ImgtxError(
      "E_USAGE",
      `a transaction can't be called '${name}': \`--txn ${name}\` stands for no one`,
    );
  }
  const other = (await findOpen(workspace)).find((open) => open.id === name || open.name === name);
  if (!other) return;
  throw new ImgtxError("E_TRANSACTION", `'${name}' is an open transaction already: ${sayWhose(other)}`, {
    hint: `choose another name, or end that one with \`imgtx txn commit ${other.id}\` or \`imgtx txn abort ${other.id}\``,
  });
}
