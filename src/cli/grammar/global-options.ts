// Options that every command takes, before or after the verb.

import { allowDevicesOption } from "./allow-devices.ts";
import { allowPathOption } from "./allow-path.ts";
import type { OptionDefinition } from "./definition.ts";

export const GLOBAL_OPTIONS: readonly OptionDefinition[] = [
  {
    long: "output",
    value: { name: "FORM", completes: ["human", "json"], choices: ["human", "json"] },
    about: "human (the default) or json",
  },
  { long: "json", about: "the same as --output json" },
  {
    long: "workspace",
    value: { name: "DIR", completes: "folder" },
    about: "use this workspace; else IMGTX_WORKSPACE, else the nearest one upwards",
  },
  {
    long: "txn",
    value: { name: "ID", completes: "transaction" },
    about: "the open transaction, by id or name, or none; else IMGTX_TXN, else that which was begun here",
  },
  {
    long: "txn-id",
    value: { name: "ID", completes: "nothing" },
    about: "do it once by this id: a repeated command is answered with what the first one did",
  },
  {
    long: "wait",
    value: { name: "SECONDS", completes: "nothing", optional: true },
    about: "wait for locks, without a number for good",
  },
  allowPathOption,
  allowDevicesOption,
  { long: "dry-run", short: "n", about: "print what would be done, and change nothing" },
  {
    long: "progress",
    value: { name: "FORM", completes: ["json"], choices: ["json"] },
    about: "json: tell on stderr how far long work is, an object a line",
  },
  { long: "yes", short: "y", about: "do not ask on a terminal before what can't be taken back" },
  { long: "quiet", short: "q", about: "print nothing on success but what was asked for" },
  { long: "verbose", short: "v", about: "print causes with errors, and stacks with bugs" },
  { long: "no-color", about: "no colours; NO_COLOR does the same" },
  { long: "help", short: "h", about: "explain a command" },
  { long: "version", short: "V", about: "print the version" },
];

/** As they stand beside a command's own options: a letter that has a meaning there, as in `-n 20`, is that. */
export function globalOptionsBeside(own: readonly OptionDefinition[]): readonly OptionDefinition[] {
  const taken = new Set(own.map(({ short }) => short));
  return GLOBAL_OPTIONS.map(({ short, ...option }) =>
    short === undefined || taken.has(short) ? option : { ...option, short },
  );
}
