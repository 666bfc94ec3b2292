// imgtx recover

import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { GivenUp, RecoveryNote } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { openSession, type Invocation, type OpenSession, runOptions } from "../running/invocation.ts";
import { confirm } from "./confirm.ts";
import { RATE_LIMIT } from "./rate-limit.ts";
import type { Drawing } from "../running/report.ts";
import { withSchema } from "../render/json.ts";

const RECOVERED: Drawing<readonly RecoveryNote[]> = {
  text: (notes) => (notes.length === 0 ? ["Nothing to recover."] : []),
  json: (notes) =>
    withSchema({
      changed: notes.some(({ did }) => did !== "reported" && did !== "noted"),
      recovered: notes.map(({ transaction, did, text }) => ({ transaction, did, text })),
    }),
};

const GIVEN_UP: Drawing<GivenUp & { readonly dryRun: boolean }> = {
  text: ({ id, record, what, devices, left, generation, dryRun }) => {
    if (what === "") return [`Transaction ${id} has just ended by itself: there is nothing to give up.`];
    const would = dryRun ? "Would give up" : "Gave up";
    if (record === null) return [`${would} ${what}; generation ${generation} stays`];
    return [
      `${would} transaction ${id} (${what}); generation ${generation} stays`,
      ...left.map(({ path, why }) => `  stays as it is: ${path}: ${why}`),
      ...(devices === null || devices.length === 0 ? [] : [`  free again: ${devices.join(", ")}`]),
      `  its journal: ${record}`,
    ];
  },
  json: ({ id, changed, record, what, devices, left, generation }) =>
    withSchema({ changed, transaction: id, what, generation, devices, left, journal: record }),
};

export const recover: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [],
    options: [
      {
        long: "give-up",
        value: { name: "ID", completes: "transaction" },
        about: "end a transaction that waits as it is, and say what it leaves; or a claim on the workspace",
      },
      RATE_LIMIT,
    ],
    about:
      "Finishes what was committed and undoes what was not, after a crash. Every imgtx command does this " +
      "before its own work; this one does nothing else, and waits with --wait for who has an image open. Open " +
      "transactions stay open. What can't be finished or undone, since a disk is away or full, or somebody has " +
      "changed or opened an image, waits: it holds its own devices, and no others. --give-up ends one that will " +
      "never be ended else: nothing more is changed, what it leaves is named, its devices are free, and its " +
      "journal is kept in .imgtx/given-up. Where mounts share no locks it also takes away the claim on the " +
      "workspace of a process that has ended elsewhere.",
    examples: [
      { command: "imgtx recover", about: "after a power cut, before the guests start" },
      { command: "imgtx recover --wait=60", about: "give a backup a minute to close its mirror" },
      { command: "imgtx recover --give-up 7f3k2m9qa1", about: "its disk will not come back" },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const { dryRun } = invocation.settings;
    const id = invocation.input.text("--give-up");
    if (id !== undefined) await confirm(invocation, sayFinal(id));
    // Recovery needs the workspace, which a claim keeps it from.
    const ofClaim = id !== undefined && isClaim(id);
    const reportOnly = dryRun || ofClaim;
    const { engine, session } = await openSession(invocation, { reportOnly, caller: "recover" });
    if (!reportOnly) await engine.assertChangeable(session);
    const { recovered, root } = session;
    if (id !== undefined) {
      const given = await engine.giveUp(session, id, runOptions(invocation, false));
      invocation.report.done({ ...given, dryRun }, GIVEN_UP);
      return 0;
    }
    // Status 0 would tell a script that the guests can start.
    if (!dryRun) {
      throwWhatWaits(recovered, root);
      await throwWhatIsClosed(invocation, session);
    }
    invocation.report.done(session.recovered, RECOVERED);
    return 0;
  },
};

/** Of a process that shares no locks with others, and can't be seen. */
function isClaim(id: string): boolean {
  return id.startsWith("claim-");
}

function sayFinal(id: string): string {
  if (isClaim(id))
    return "Where the process that has claimed the workspace lives on, what it and others commit at once may be lost.";
  return `Transaction ${id} ends as it is, half done perhaps, and can't be finished or undone any more.`;
}

/** E_UNFINISHED where something committed waits; else what keeps recovery from undoing the rest. */
function throwWhatWaits(notes: readonly RecoveryNote[], root: string): void {
  const waiting = notes.flatMap(({ obstacle }) => obstacle ?? []);
  const first = waiting.find(({ isCommitted }) => isCommitted) ?? waiting[0];
  if (first) {
    const count = waiting.length === 1 ? "one transaction waits" : `${waiting.length} transactions wait`;
    const code = first.isCommitted ? "E_UNFINISHED" : first.code;
    throw new ImgtxError(code, `${count}: ${first.why}`, {
      image: root,
      ...first.place,
      hint: first.hint,
      changed: notes.some(({ did }) => did !== "waiting"),
    });
  }
}

/** Where the workspace can't be written to: since its file system is read-only, or since it is another user's. */
async function throwWhatIsClosed(
  { context: { storage } }: Invocation,
  { recovered, root }: OpenSession["session"],
): Promise<void> {
  if (!recovered.some(({ did }) => did === "reported")) return;
  const message = "what a crash left could not be finished or undone";
  const owner = (await storage.stat(`${root}/.imgtx`))?.ownerId;
  if (owner === undefined || owner === storage.host.userId) {
    throw new ImgtxError("E_READ_ONLY", message, {
      image: root,
      hint: "make the workspace writable, and run `imgtx recover` again",
    });
  }
  const name = shellQuote(storage.host.nameOfUser(owner));
  throw new ImgtxError("E_NO_PERMISSION", `${message}: the workspace belongs to ${name}`, {
    image: root,
    hint: `recover it as that user: \`sudo -u ${name} imgtx --workspace ${shellQuote(root)} recover\``,
  });
}
