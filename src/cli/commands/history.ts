// imgtx history [DEV]

import type { HistoryDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import { NEWEST, readChoice } from "./list-choice.ts";
import type { Drawing } from "../running/report.ts";
import { generationJson, withSchema } from "../render/json.ts";
import { drawGenerations } from "../render/lists.ts";

const GENERATIONS: Drawing<HistoryDescription> = {
  text: ({ generations }, canvas) => drawGenerations(generations, canvas),
  json: ({ generation, generations }) =>
    withSchema({ generation, generations: generations.map(generationJson) }),
};

export const history: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      { name: "DEV", about: "only commits that were about this device", optional: true, completes: "device" },
    ],
    options: [NEWEST],
    about:
      "Lists the generations of the device table, newest first, with the commit that made each: when, what it did, and " +
      "which devices it moved from which image to which. A star marks the present generation, `undo` those that " +
      "`imgtx undo` goes back to, one after the other, and `redo` those that `imgtx redo` goes to.",
    examples: [
      { command: "imgtx history -n 5", about: "the latest" },
      { command: "imgtx history vda", about: "what was done with one device" },
      {
        command: "imgtx history --json | jq -r '.generations[].summary'",
        about: "what was done, a line each",
      },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const { input, report } = invocation;
    const { engine, session } = await openToRead(invocation);
    report.answer(await engine.listGenerations(session, readChoice(input)), GENERATIONS);
    return 0;
  },
};
