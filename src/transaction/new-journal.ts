// Opens a transaction: its journal comes into being under the workspace lock.

import { lockWorkspace, type Workspace } from "../device/index.ts";
import { beginRecordOf, Journal } from "./journal/index.ts";
import type { LockWait } from "./request.ts";

export async function createJournal(
  workspace: Workspace,
  choice: { id: string; name: string | null; onError: "abort" | "keep"; owned: boolean },
  wait: LockWait,
): Promise<Journal> {
  const lock = await lockWorkspace(workspace, wait);
  try {
    return await Journal.create(workspace, beginRecordOf(workspace, { ...choice, implicit: false }), []);
  } finally {
    await lock.close();
  }
}
