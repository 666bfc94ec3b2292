// imgtx history

import type { GenerationDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../invocation.ts";
import type { Drawing } from "../report.ts";
import { generationJson, withSchema } from "../render/json.ts";
import { drawGenerations } from "../render/lists.ts";

const GENERATIONS: Drawing<readonly GenerationDescription[]> = {
  text: drawGenerations,
  json: (generations) =>
    withSchema({
      generation: generations.find(({ present }) => present)?.generation ?? null,
      generations: generations.map(generationJson),
    }),
};

export const history: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [],
    options: [],
    about:
      "Lists the generations of the device table, newest first; a star marks the present one. Each commit " +
      "makes a generation, and `imgtx undo` takes the last one back.",
    examples: [
      { command: "imgtx history | head -n 5", about: "the latest" },
      { command: "imgtx history --json | jq '.generations[0].devices'", about: "what the newest one says" },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const { engine, session } = await openToRead(invocation);
    invocation.report.answer(await engine.listGenerations(session), GENERATIONS);
    return 0;
  },
};
