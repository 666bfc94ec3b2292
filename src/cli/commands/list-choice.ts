// How lists are narrowed: to one device, and to the newest.

import type { OptionDefinition } from "../grammar/definition.ts";
import type { CommandInput } from "../grammar/input.ts";

export const NEWEST: OptionDefinition = {
  short: "n",
  value: { name: "N", completes: "nothing" },
  about: "no more than the N newest",
};

export function readChoice(input: CommandInput): {
  readonly device: string | undefined;
  readonly count: number | undefined;
} {
  return { device: input.text("DEV"), count: input.count("-n", 0) };
}
