// From the text of a batch to its commands, all of them read and checked before the first one runs.
//
// The text is one command, its arguments alone, the bare list of a transaction's actions, a list of
// commands, or commands one after another as a client sends them.

import { ImgtxError } from "../../../errors/index.ts";
import { ACTION_READERS, groupSnapshot } from "./actions.ts";
import { isList, isObject, type JsonValue, parseJsonStream } from "./json.ts";
import { Members, misused, refused } from "./members.ts";
import { Scope } from "./scope.ts";
import type { Step } from "./steps.ts";
import { hasNoActions } from "../words.ts";

/** What a command asks for. */
export type Errand =
  | { readonly kind: "nothing" }
  /** Ends: whether the same text commits or aborts it. */
  | { readonly kind: "begin"; readonly ends: boolean }
  | { readonly kind: "commit" | "abort" }
  | { readonly kind: "actions"; readonly steps: readonly Step[] };

/** A command as it came. */
export interface Envelope {
  /** To be echoed in the answer. */
  readonly id: JsonValue | undefined;
  /** What places in this command begin with: nothing, or `commands[1].`. */
  readonly prefix: string;
  readonly value: JsonValue;
  readonly form: "command" | "arguments" | "actions";
}

export interface Script {
  /** At least one, so that there is always something to answer. */
  readonly envelopes: readonly Envelope[];
  /** As many, or undefined where one of them is refused. */
  readonly errands: readonly Errand[] | undefined;
  readonly refusal: { readonly index: number; readonly error: ImgtxError } | undefined;
}

/** QMP has a class of its own for it. */
export class UnknownCommandError extends ImgtxError {}

export function readScript(text: string, cwd: string): Script {
  let envelopes: readonly Envelope[];
  try {
    envelopes = openEnvelopes(parseJsonStream(text));
  } catch (error) {
    const none = { id: undefined, prefix: "", value: null, form: "command" } as const;
    return { envelopes: [none], errands: undefined, refusal: { index: 0, error: asRefusal(error) } };
  }
  const scope = new Scope(cwd);
  const errands: Errand[] = [];
  for (const [index, envelope] of envelopes.entries()) {
    try {
      const errand = readErrand(envelope, scope, index);
      assertInOrder(errand, errands, envelope);
      errands.push(errand);
    } catch (error) {
      return { envelopes, errands: undefined, refusal: { index, error: asRefusal(error) } };
    }
  }
  return {
    envelopes,
    errands: errands.map((errand, index) => withEnd(errand, errands, index)),
    refusal: undefined,
  };
}

function asRefusal(error: unknown): ImgtxError {
  if (error instanceof ImgtxError) return error;
  throw error;
}

function openEnvelopes(values: readonly JsonValue[]): readonly Envelope[] {
  const [first] = values;
  if (values.length === 1 && isList(first)) {
    if (first.length === 0) throw hasNoActions();
    if (first.some(isCommand)) return numbered(first);
    return [{ id: undefined, prefix: "", value: first, form: "actions" }];
  }
  if (values.length === 1 && isObject(first) && !isCommand(first) && !first.has("exec-oob")) {
    return [{ id: undefined, prefix: "", value: first, form: "arguments" }];
  }
  return numbered(values);
}

function isCommand(value: JsonValue): boolean {
  return isObject(value) && value.has("execute");
}

function numbered(values: readonly JsonValue[]): Envelope[] {
  return values.map((value, index) => ({
    id: isObject(value) ? value.get("id") : undefined,
    prefix: values.length === 1 ? "" : `commands[${index}].`,
    value,
    form: "command",
  }));
}

function readErrand({ value, prefix, form }: Envelope, scope: Scope, index: number): Errand {
  if (form === "actions") return readActions(value, `${prefix}actions`, scope);
  const place = prefix.replace(/\.$/, "");
  if (form === "arguments") return readTransaction(new Members(value, place), scope);
  const command = new Members(value, place);
  command.take("id");
  const name = command.text("execute");
  const given = command.take("arguments") ?? new Map<string, JsonValue>();
  command.finish();
  if (name === "transaction") return readTransaction(new Members(given, place), scope);
  return readCommand({ name, given, prefix, isFirst: index === 0 }, scope);
}

function readTransaction(data: Members, scope: Scope): Errand {
  if (data.has("properties")) {
    const properties = data.object("properties");
    // Both are kept: whatever the mode, imgtx completes all of the actions together or none.
    properties.choice("completion-mode", ["individual", "grouped"]);
    properties.finish();
  }
  const actions = data.list("actions");
  data.finish();
  return readActions(actions, data.at("actions"), scope);
}

function readActions(value: JsonValue, place: string, scope: Scope): Errand {
  const actions = isList(value) ? value : [];
  if (actions.length === 0) throw misused(place, "is empty: the batch has no actions");
  return {
    kind: "actions",
    steps: actions.flatMap((action, index) => readAction(action, `${place}[${index}]`, scope)),
  };
}

function readAction(value: JsonValue, place: string, scope: Scope): Step[] {
  const action = new Members(value, place);
  const type = action.text("type");
  const given = action.take("data");
  action.finish();
  if (type === "abort") {
    new Members(given ?? new Map<string, JsonValue>(), action.at("data")).finish();
    return [{ kind: "request", request: { kind: "refuse", device: undefined } }];
  }
  const read = Object.hasOwn(ACTION_READERS, type) ? ACTION_READERS[type] : undefined;
  if (!read) {
    const hint = hintAtJob(type) ?? `imgtx knows ${["abort", ...Object.keys(ACTION_READERS)].join(", ")}`;
    throw refused(place, hintAtJob(type) ? `type '${type}' ${IS_A_JOB}` : `type '${type}' is not supported`, {
      hint,
    });
  }
  const data = new Members(given, action.at("data"));
  const steps = read(data, scope);
  data.finish();
  return steps;
}

/** QEMU starts these as jobs of their own, which end when they end: none is an action of its `transaction`. */
const LINES_FOR_JOBS: Readonly<Record<string, string>> = {
  "block-commit": "merge DEV [--into IMAGE] [--from IMAGE]",
  "block-stream": "pull DEV [--base IMAGE]",
};
const IS_A_JOB = "is no action of QMP's transaction: in QEMU it is a job of its own";

function hintAtJob(name: string): string | undefined {
  const line = Object.hasOwn(LINES_FOR_JOBS, name) ? LINES_FOR_JOBS[name] : undefined;
  return line && `\`imgtx txn run\` takes it as a line, \`${line}\`, with others in one transaction`;
}

interface NamedCommand {
  readonly name: string;
  readonly given: JsonValue;
  readonly prefix: string;
  readonly isFirst: boolean;
}

const BORDERS: Readonly<Record<string, Errand>> = {
  "blockdev-start-transaction": { kind: "begin", ends: false },
  "blockdev-commit-transaction": { kind: "commit" },
  "blockdev-abort-transaction": { kind: "abort" },
};

const GROUP_SNAPSHOTS = ["blkdev-group-snapshot-sync", "blockdev-group-snapshot-sync"];

function readCommand({ name, given, prefix, isFirst }: NamedCommand, scope: Scope): Errand {
  const place = `${prefix}arguments`;
  if (name === "qmp_capabilities" && isFirst) return negotiate(new Members(given, place));
  const border = Object.hasOwn(BORDERS, name) ? BORDERS[name] : undefined;
  if (border) {
    new Members(given, place).finish();
    return border;
  }
  const isGroup = GROUP_SNAPSHOTS.includes(name);
  const read = isGroup
    ? groupSnapshot
    : Object.hasOwn(ACTION_READERS, name)
      ? ACTION_READERS[name]
      : undefined;
  if (!read) throw unknownCommand(name, prefix);
  const data = new Members(isGroup && isList(given) ? new Map([["devlist", given]]) : given, place);
  const steps = read(data, scope);
  data.finish();
  return { kind: "actions", steps };
}

function negotiate(data: Members): Errand {
  if (data.has("enable") && data.list("enable").length > 0) {
    throw refused(data.at("enable"), "imgtx has none of QMP's capabilities");
  }
  data.finish();
  return { kind: "nothing" };
}

function unknownCommand(name: string, prefix: string): UnknownCommandError {
  const known = [
    "transaction",
    ...GROUP_SNAPSHOTS.slice(0, 1),
    ...Object.keys(BORDERS),
    ...Object.keys(ACTION_READERS),
  ];
  const job = hintAtJob(name);
  const why =
    name === "qmp_capabilities"
      ? "only the first command may be 'qmp_capabilities'"
      : job && `'${name}' ${IS_A_JOB}`;
  return new UnknownCommandError(
    "E_UNSUPPORTED",
    `${prefix}execute: ${why ?? `'${name}' is not supported`}`,
    {
      hint: job ?? `imgtx knows ${known.join(", ")}`,
    },
  );
}

/** E_USAGE for a start inside a started transaction. */
function assertInOrder(errand: Errand, before: readonly Errand[], { prefix }: Envelope): void {
  if (errand.kind !== "begin") return;
  const border = before.findLast(({ kind }) => kind === "begin" || kind === "commit" || kind === "abort");
  if (border?.kind === "begin") {
    throw misused(`${prefix}execute`, "a transaction is started already, and they do not nest");
  }
}

function withEnd(errand: Errand, all: readonly Errand[], index: number): Errand {
  if (errand.kind !== "begin") return errand;
  return {
    kind: "begin",
    ends: all.slice(index + 1).some(({ kind }) => kind === "commit" || kind === "abort"),
  };
}
