// What a command does, beside its words: an action is a request, and all that is no action runs by itself.

import type { ActionRequest } from "../../transaction/index.ts";
import type { ActionWords, CommandDefinition, CommandRow } from "../grammar/definition.ts";
import type { CommandInput } from "../grammar/input.ts";
import type { Invocation, OpenSession } from "./invocation.ts";

/** A command that is one action: alone, in an open transaction, or as a line of `txn run`. */
export interface ActionCommand extends ActionWords {
  /** Joins an open transaction only where `--txn` names it. Default: false. */
  readonly standalone?: boolean;
  /** Asks, by itself and on a terminal, before something that can't be taken back. */
  confirm?(invocation: Invocation, open: OpenSession, request: ActionRequest): Promise<void>;
  /** What it does where its words ask for something that is no action; undefined where they do not. */
  instead?(invocation: Invocation): ((invocation: Invocation) => Promise<number>) | undefined;
}

export interface PlainCommand {
  readonly kind: "plain";
  readonly definition: CommandDefinition;
  /** Does what `--txn-id` asks for. Default: false. */
  readonly isOnce?: true;
  /** Whether it changes nothing, of one that may. Default: by its statuses. */
  readonly onlyLooks?: (input: CommandInput) => boolean;
  /** Returns the exit status. */
  execute(invocation: Invocation): Promise<number>;
}

/** A command of `imgtx img`: img/ has its grammar, and runs it. */
interface ImgCommandShape {
  readonly kind: "img";
  readonly definition: CommandDefinition;
}

export type Command = ActionCommand | PlainCommand | ImgCommandShape;

export interface RunnableRow extends CommandRow {
  readonly load: () => Promise<Command>;
}
