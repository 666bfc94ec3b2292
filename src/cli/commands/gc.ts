// imgtx gc

import { ImgtxError } from "../../errors/index.ts";
import type { ActionReport, Garbage, KeptFile } from "../../transaction/index.ts";
import { formatBytes } from "../../units/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import {
  type Invocation,
  lockWait,
  openSession,
  type OpenSession,
  runOptions,
} from "../running/invocation.ts";
import { withSchema } from "../render/json.ts";
import type { Drawing } from "../running/report.ts";

interface Collected extends Garbage {
  readonly leaks: readonly ActionReport[];
}

const COLLECTED: Drawing<Collected> = {
  text: ({ found, stays, leaks, removed }) => [
    ...found.map(
      ({ path, what, sizeBytes }) =>
        `${removed ? "removed" : "would remove"}: ${path} (${what}, ${formatBytes(sizeBytes)})`,
    ),
    ...leaks.map(
      ({ device, after }) => `${removed ? "" : "would be "}repaired: leaks of ${device}, ${after}`,
    ),
    ...stays.map(({ path, why }) => `stays: ${path}: ${why}`),
    sayAll({ found, stays, leaks, removed }),
  ],
  json: ({ found, stays, leaks, removed }) =>
    withSchema({
      changed: removed && found.length + leaks.length > 0,
      found: found.map(({ path, what, sizeBytes }) => ({ path, what, "allocated-size": sizeBytes })),
      leaks: leaks.map(({ device, after, notes }) => ({ device, image: after, notes })),
      stays,
    }),
  stands: ({ removed, found }) => (removed && found.length > 0 ? "files were removed" : undefined),
};

function sayAll({ found, stays, leaks, removed }: Collected): string {
  const count = found.length + leaks.length;
  if (count === 0) return stays.length === 0 ? "Nothing to remove." : "Nothing was removed.";
  const size = formatBytes(found.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0));
  return removed ? `Removed ${size}.` : `Nothing was changed; \`imgtx gc --yes\` removes ${size}.`;
}

export const gc: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [],
    options: [],
    about:
      "Lists files that imgtx made and that nothing needs any more, and clusters that active layers of devices have " +
      "lost; with --yes it removes the files and repairs the leaks. A file goes only where a record of the workspace " +
      "says that imgtx made it, and it holds what imgtx put there: an overlay that a guest has written to stays. So " +
      "does what a device, a snapshot, an open transaction, another image, an undo or a redo needs, and what anybody " +
      "has open. What stays in doubt is named.",
    examples: [
      { command: "imgtx gc", about: "list what would go" },
      { command: "imgtx gc --yes", about: "remove it" },
    ],
    exits: CHANGING_EXITS,
    exitNote: "It ends with 1 where anything is in doubt, and stays.",
  },
  async execute(invocation) {
    const { settings, report } = invocation;
    const removes = settings.yes && !settings.dryRun;
    const open = await openSession(invocation);
    if (removes) await open.engine.assertChangeable(open.session);
    const garbage = await open.engine.collectGarbage(open.session, { removes, ...lockWait(invocation) });
    const { leaks, stays } = await repairLeaks(invocation, open, removes);
    const all = { ...garbage, leaks, stays: [...garbage.stays, ...stays] };
    if (removes) report.done(all, COLLECTED);
    else report.answer(all, COLLECTED);
    return all.stays.length === 0 ? 0 : 1;
  },
};

/** Of each device by itself: the trouble of one is no other's. */
async function repairLeaks(
  invocation: Invocation,
  { engine, session }: OpenSession,
  removes: boolean,
): Promise<{ readonly leaks: readonly ActionReport[]; readonly stays: readonly KeptFile[] }> {
  const leaks: ActionReport[] = [];
  const stays: KeptFile[] = [];
  const { devices } = await engine.describeDevices(session, undefined);
  for (const { name, image, format } of devices) {
    if (format !== "qcow2") continue;
    try {
      const request = { kind: "repair", devices: [name], scope: "leaks" } as const;
      const options = { ...runOptions(invocation, true), dryRun: !removes };
      const { actions } = await engine.runActions(session, [request], options);
      leaks.push(...actions.filter(({ files }) => files.length > 0));
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      stays.push({ path: image, why: `what '${name}' has lost there is not known: ${error.message}` });
    }
  }
  return { leaks, stays };
}
