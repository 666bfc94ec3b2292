// What is in .imgtx and is not imgtx's, and what of it is lost: said, and no hindrance.

import { makeLostParts, pathsOf, readTable, type Part, type Workspace } from "../../device/index.ts";
import type { JournalFolder } from "../journal/index.ts";
import type { RecoveryNote } from "../requests/request.ts";

/** Something that looks like a journal: a FIFO, a folder, a link, another program's file. It is left alone. */
export function noteStrangeThings(
  workspace: Workspace,
  { strange }: Pick<JournalFolder, "strange">,
): RecoveryNote[] {
  const { journals } = pathsOf(workspace);
  return strange.map((name) =>
    note("noted", `${journals}/${name} is no journal of imgtx's, and is left alone`),
  );
}

/** As what waits to be done. */
export function sayLost(part: Part): string {
  return `.imgtx/${part} is lost`;
}

/** Makes again what was lost. The caller holds the workspace lock. */
export async function mendLostParts(workspace: Workspace): Promise<RecoveryNote[]> {
  const lost = await makeLostParts(workspace);
  const { generation } = await readTable(workspace);
  // A view is derived from the table, and a note of its own tells that it is shown again.
  const told = lost.filter((part) => part === "history" || part === "journal");
  return told.map((part) =>
    note("mended", `made .imgtx/${part} again, which was lost${goneWith(part, generation)}`),
  );
}

function goneWith(part: Part, generation: number): string {
  return part === "history"
    ? `: no generation before ${generation} is known any more`
    : ", and with it transactions that were open: new images of theirs stay";
}

function note(did: RecoveryNote["did"], text: string): RecoveryNote {
  return { transaction: null, did, text };
}
