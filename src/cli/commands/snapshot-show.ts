// imgtx snapshot-show NAME|NUMBER

import type { SnapshotDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import type { Drawing } from "../running/report.ts";
import { snapshotJson, withSchema } from "../render/json.ts";
import { drawSnapshot } from "../render/lists.ts";

const SNAPSHOT: Drawing<SnapshotDescription> = {
  text: drawSnapshot,
  json: (snapshot) => withSchema({ snapshot: snapshotJson(snapshot) }),
};

export const snapshotShow: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [{ name: "SNAPSHOT", about: "the name or the number of a snapshot", completes: "snapshot" }],
    options: [],
    about:
      "Shows what a snapshot keeps of each device: its sealed image, how much space that takes, and whether it " +
      "and all that it stands on is what it was.",
    examples: [
      { command: "imgtx snapshot-show before-upgrade", about: "by its name" },
      { command: "imgtx snapshot-show 12 --json", about: "by its number, for scripts" },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const wanted = invocation.input.argument("SNAPSHOT");
    const { engine, session } = await openToRead(invocation);
    invocation.report.answer(await engine.showSnapshot(session, wanted), SNAPSHOT);
    return 0;
  },
};
