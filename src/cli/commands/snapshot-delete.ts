// imgtx snapshot-delete NAME|NUMBER … [--device DEV …]

import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { confirm } from "./confirm.ts";
import { RATE_LIMIT } from "./rate-limit.ts";

export const snapshotDelete: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      {
        name: "SNAPSHOT",
        about: "the names or the numbers of snapshots",
        variadic: true,
        completes: "snapshot",
      },
    ],
    options: [
      {
        long: "device",
        value: { name: "DEV", completes: "device" },
        repeatable: true,
        about: "only the moment of this device; else of all that the snapshots keep",
      },
      {
        long: "keep-images",
        about: "merge and remove nothing: images that are missing, or not what they were, stay as they are",
      },
      {
        long: "force",
        about: "let layers go also where the history lacks a generation, whose images may stand on them",
      },
      RATE_LIMIT,
    ],
    about:
      "Takes snapshots away, and leaves what all others, and all devices, show. A sealed image that nothing else " +
      "needs becomes one layer with what stands on it, up or down, whichever moves less, or goes where nothing " +
      "does; one that others need stays as a layer. It can't be undone.",
    examples: [
      { command: "imgtx snapshot-delete before-upgrade", about: "one, of all its devices" },
      { command: "imgtx snapshot-delete 3 4 5 --dry-run", about: "what would be merged, which files go" },
      { command: "imgtx snapshot-delete nightly --device vdb", about: "the other devices keep theirs" },
    ],
    exits: CHANGING_EXITS,
  },
  request: (input) => ({
    kind: "snapshot-delete",
    snapshots: input.texts("SNAPSHOT"),
    devices: input.texts("--device"),
    keepsImages: input.flag("--keep-images"),
    force: input.flag("--force"),
  }),
  async confirm(invocation) {
    const names = invocation.input.texts("SNAPSHOT").join(", ");
    await confirm(invocation, `What only these snapshots keep is lost: ${names}.`);
  },
};
