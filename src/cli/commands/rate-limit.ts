// --rate-limit of commands that copy content.

import type { OptionDefinition } from "../grammar/definition.ts";

export const RATE_LIMIT: OptionDefinition = {
  long: "rate-limit",
  value: { name: "SIZE", completes: "nothing" },
  about: "copy no more than SIZE each second: 50M; an interrupt ends the limit",
};
