// A whole workspace goes to another folder: first the images of its devices, with what snapshots keep of them, as a
// transaction of its own; then the workspace itself, in which nothing is open (the device layer's moving.ts).
//
// Decision: two steps, and not one. Between them the workspace is whole where it was, with its images in the new folder, and
// the same command goes on. One step would have to move `.imgtx` under the journal that says what it does.

import {
  assertRoomFor,
  findLostHooks,
  isBelow,
  moveWorkspace,
  readMovedAway,
  readTable,
  underWorkspaceLock,
  type Workspace,
  workspaceAt,
} from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { shellQuote } from "../format/index.ts";
import { isParked, type JournalSnapshot, readJournals } from "./journal/index.ts";
import type { RunOptions, Session } from "./requests/request.ts";
import type { Outcome } from "./describe/results.ts";
import { assertChangeable, openSession, runActions } from "./session.ts";

export interface Move {
  readonly from: string;
  readonly to: string;
  readonly generation: number;
  /** What became of the images. Null: there is no device. */
  readonly relocation: Outcome | null;
}

/** E_EXISTS where the folder has a workspace; E_TRANSACTION where one is open in this one. */
export async function relocateWorkspace(
  session: Session,
  folder: string,
  options: RunOptions & { readonly safeWorkspaces: readonly string[] },
): Promise<Move> {
  const { workspace: from, root } = session;
  const { storage } = from;
  await assertChangeable(session);
  const to = await workspaceAt(storage, folder, options.safeWorkspaces);
  assertCanGo(from, to);
  await assertRoomFor(from, to);
  // The copy of images that was cut off is gone on with.
  await assertNothingOpen(from, ({ state }) => !(state instanceof ImgtxError) && isParked(state));
  const { devices } = await readTable(from);
  const request = { kind: "relocate", devices: undefined, folder: to.root, keep: false } as const;
  const relocation = devices.length === 0 ? null : await runActions(session, [request], options);
  if (!options.dryRun) {
    await telling({ from, to, isChanged: relocation?.changed === true }, async () => {
      await underWorkspaceLock(from, options, async () => {
        await assertNothingOpen(from);
        await moveWorkspace(from, to);
      });
      await showThere(to, options);
    });
  }
  const { generation } = await readTable(options.dryRun ? from : to);
  return { from: root, to: to.root, generation, relocation };
}

/** Where a failure leaves the workspace: whole in the old folder, or, from its record on, to be ended in the new one. */
async function telling(
  { from, to, isChanged }: { readonly from: Workspace; readonly to: Workspace; readonly isChanged: boolean },
  work: () => Promise<void>,
): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    if ((await readMovedAway(from))?.to === to.root) {
      const text = `the workspace has gone to ${to.root}, and that is not ended: ${error.message}`;
      const hint = `\`imgtx --workspace ${shellQuote(to.root)} recover\` goes on`;
      throw new ImgtxError("E_UNFINISHED", text, { image: to.root, changed: true, hint, cause: error });
    }
    if (!isChanged) throw error;
    throw error
      .reworded(`the images are in ${to.root}, and the workspace still in ${from.root}: ${error.message}`)
      .with({ changed: true });
  }
}

function assertCanGo(from: Workspace, to: Workspace): void {
  const [one, other] = [from.root, to.root];
  const why =
    one === other
      ? "it is the workspace's own folder"
      : isBelow(one, other)
        ? "it lies in the workspace itself"
        : from.ownerId !== undefined || to.ownerId !== undefined
          ? "a workspace of another user is moved by that user"
          : undefined;
  if (why === undefined) return;
  throw new ImgtxError("E_REFUSED", `the workspace can't go there: ${why}`, {
    image: other,
    hint: "name another folder",
  });
}

async function assertNothingOpen(
  workspace: Workspace,
  mayBe: (journal: JournalSnapshot) => boolean = () => false,
): Promise<void> {
  const journal = (await readJournals(workspace)).find((one) => !mayBe(one));
  if (journal) {
    throw new ImgtxError("E_TRANSACTION", `transaction ${journal.id} is open, or not finished`, {
      image: workspace.root,
      hint: "end it first: `imgtx txn status` and `imgtx device list` show it",
    });
  }
  const { lost, strange } = await findLostHooks(workspace);
  const [hook] = [...lost.map(({ id }) => id), ...strange];
  if (hook === undefined) return;
  throw new ImgtxError("E_UNFINISHED", `a hook was not run: ${hook}`, {
    image: workspace.root,
    hint: "`imgtx recover` says which",
  });
}

/** Its view, for who starts guests by that. */
async function showThere(to: Workspace, options: RunOptions): Promise<void> {
  const { recovered } = await openSession(to.storage, {
    ...options,
    startFolder: to.root,
    workspace: to.root,
    createHere: false,
  });
  for (const note of recovered) if (note.did !== "view") options.onRecovered?.(note);
}
