// Commits that were given an id: which one had it. They are remembered for as many commits as this, newest first.
//
// Invariant: what can't be told is refused. A generation whose file is lost is known by the file before it; where that is
// lost too, it may have been the one that is looked for.

import { ImgtxError, unlessItFails } from "../../errors/index.ts";
import type { DeviceTable, TableHead } from "../table/device-table.ts";
import { readingHistory } from "./history.ts";
import type { Workspace } from "../workspace/workspace.ts";

const REMEMBERED = 1000;

/** The table that the commit with that id made, without its devices. E_REFUSED where that can't be told. */
export async function findAppliedOnce(
  workspace: Workspace,
  present: DeviceTable,
  id: string,
): Promise<TableHead | undefined> {
  const history = readingHistory(workspace, present);
  const fileOf = async (generation: number) =>
    await unlessItFails(() => history.file(generation), ["E_CORRUPT"]);
  const oldest = Math.max(0, present.generation - REMEMBERED + 1);
  for (let generation = present.generation; generation >= oldest; generation -= 1) {
    const head =
      generation === present.generation
        ? present
        : ((await fileOf(generation))?.head ?? (await fileOf(generation - 1))?.stored.next?.head);
    if (!head) throw lost(workspace, generation, id);
    if (head.once?.id === id) return head;
  }
  return undefined;
}

function lost({ root }: Workspace, generation: number, id: string): ImgtxError {
  return new ImgtxError(
    "E_REFUSED",
    `whether '${id}' was applied already can't be told: the history has lost generation ${generation}`,
    {
      image: root,
      hint: "look at `imgtx history`, and leave out --txn-id where it was not",
    },
  );
}
