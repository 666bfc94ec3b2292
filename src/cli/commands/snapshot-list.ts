// imgtx snapshot-list [DEV]

import type { SnapshotDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import { NEWEST, readChoice } from "./list-choice.ts";
import type { Drawing } from "../running/report.ts";
import { snapshotJson, withSchema } from "../render/json.ts";
import { drawSnapshots } from "../render/lists.ts";

const SNAPSHOTS: Drawing<readonly SnapshotDescription[]> = {
  text: drawSnapshots,
  json: (snapshots) => withSchema({ snapshots: snapshots.map(snapshotJson) }),
};

export const snapshotList: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      { name: "DEV", about: "only those that keep this device", optional: true, completes: "device" },
    ],
    options: [NEWEST],
    about:
      "Lists the snapshots, newest first: what each keeps, when it was taken, and how much space its own images " +
      "take. A device with a ! has an image there that is not what it was, which is said below the list. " +
      "With --quiet the names alone, or the number of one that has none.",
    examples: [
      { command: "imgtx snapshot-list", about: "all of them" },
      { command: "imgtx snapshot-list vda -n 20", about: "the newest 20 of one device" },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const { input, report } = invocation;
    const { engine, session } = await openToRead(invocation);
    if (report.quiet && !report.answersJson) {
      const named = await engine.nameSnapshots(session, readChoice(input));
      report.answerNames(named.map(({ number, name }) => name ?? String(number)));
      return 0;
    }
    const snapshots = await engine.listSnapshots(session, readChoice(input));
    report.answer(snapshots, SNAPSHOTS);
    if (snapshots.length === 0) report.advice("no snapshots yet: imgtx snapshot-group --all takes one");
    return 0;
  },
};
