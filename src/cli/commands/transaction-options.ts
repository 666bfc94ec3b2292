// Options of the commands that open a transaction.

import { ImgtxError } from "../../errors/index.ts";
import type { OptionDefinition } from "../grammar/definition.ts";
import type { CommandInput } from "../grammar/input.ts";

export const TRANSACTION_OPTIONS: readonly OptionDefinition[] = [
  {
    long: "name",
    value: { name: "NAME", completes: "nothing" },
    about: "a name for people; status and history show it",
  },
  {
    long: "on-error",
    value: { name: "WHAT", completes: ["abort", "keep"], choices: ["abort", "keep"] },
    about: "when an action fails: undo that one and keep the rest (keep, the default), or abort all",
  },
];

export function readOnError(input: CommandInput): "abort" | "keep" {
  return input.text("--on-error") === "abort" ? "abort" : "keep";
}

export function readName(input: CommandInput): string | undefined {
  const name = input.text("--name");
  if (name === "") throw new ImgtxError("E_USAGE", "--name: the name is empty");
  return name;
}
