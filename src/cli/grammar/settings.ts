// The global options and the environment, read once for each run.

import { ImgtxError } from "../../errors/index.ts";
import type { CliContext } from "../context.ts";
import { ALLOW_DEVICES, inheritsDevices } from "./allow-devices.ts";
import { ALLOW_PATH, inheritedAllowPaths, readAllowPaths } from "./allow-path.ts";
import type { ParsedValue } from "./input.ts";
import { absolutePath } from "./path.ts";

/** What `--wait` without a value is turned into, so that it never takes the word after it for one. */
export const WAIT_FOR_GOOD = "forever";

export interface Settings {
  readonly json: boolean;
  /** Absolute; undefined: searched upwards from the current folder. */
  readonly workspace: string | undefined;
  /** Of this command line only: whoever pastes a command of a hint has to name it again. */
  readonly givenWorkspace: string | undefined;
  readonly quiet: boolean;
  /** How far long work is, as JSON on stderr. */
  readonly tellsProgress: boolean;
  /** Whether what can't be taken back is done without asking. */
  readonly yes: boolean;
  readonly verbose: boolean;
  readonly dryRun: boolean;
  readonly refusesColor: boolean;
  /** Infinity: for good. */
  readonly waitMs: number;
  /** How often a long copy keeps how far it has come. */
  readonly markEveryMs: number | undefined;
  /** Of IMGTX_SAFE_WORKSPACES: absolute paths. */
  readonly safeWorkspaces: readonly string[];
  readonly transaction: string | undefined;
  /** Of this command line only. */
  readonly givenTransaction: string | undefined;
  /** `--txn-id`: what is asked for is done once by it. */
  readonly requestId: string | undefined;
  /** Of this command line only. */
  readonly givenAllowPaths: readonly string[];
  /** Of the command line and the environment. */
  readonly allowPaths: readonly string[];
  /** Whether images may lie on block devices: said on the command line or in the environment. */
  readonly allowsDevices: boolean;
}

export function readSettings(
  values: ReadonlyMap<string, ParsedValue>,
  context: Pick<CliContext, "cwd" | "env">,
): Settings {
  const { cwd, env } = context;
  const text = (name: string): string | undefined => {
    const value = values.get(name);
    return typeof value === "string" ? value : undefined;
  };
  const workspace = text("--workspace");
  const givenWorkspace = workspace === undefined ? undefined : absolutePath(cwd, workspace);
  if (workspace === "") throw new ImgtxError("E_USAGE", "--workspace: the folder's name is empty");
  const givenTransaction = text("--txn");
  if (givenTransaction === "") throw new ImgtxError("E_USAGE", "--txn: the id is empty");
  const given = values.get(ALLOW_PATH);
  const givenAllowPaths = readAllowPaths(typeof given === "object" ? given : [], cwd);
  return {
    json: values.get("--json") === true || text("--output") === "json",
    workspace: givenWorkspace ?? inheritedWorkspace(context),
    givenWorkspace,
    quiet: values.get("--quiet") === true,
    yes: values.get("--yes") === true,
    tellsProgress: text("--progress") === "json",
    verbose: values.get("--verbose") === true,
    dryRun: values.get("--dry-run") === true,
    refusesColor: values.get("--no-color") === true,
    waitMs: readWait(text("--wait")),
    markEveryMs: readMarkEvery(notEmpty(env["IMGTX_MARK_EVERY"])),
    safeWorkspaces: inheritedSafeWorkspaces(context),
    transaction: givenTransaction ?? notEmpty(env["IMGTX_TXN"]),
    givenTransaction,
    requestId: readRequestId(text("--txn-id")),
    givenAllowPaths,
    allowPaths: [...givenAllowPaths, ...inheritedAllowPaths(context)],
    allowsDevices: values.get(ALLOW_DEVICES) === true || inheritsDevices(context),
  };
}

/** The workspace that the environment names, absolute. */
export function inheritedWorkspace({ cwd, env }: Pick<CliContext, "cwd" | "env">): string | undefined {
  const workspace = notEmpty(env["IMGTX_WORKSPACE"]);
  return workspace === undefined ? undefined : absolutePath(cwd, workspace);
}

/** Absolute paths alone: a relative one would be another folder for each command. */
export function inheritedSafeWorkspaces({ env }: Pick<CliContext, "env">): readonly string[] {
  return (env["IMGTX_SAFE_WORKSPACES"] ?? "").split(":").filter((path) => path.startsWith("/"));
}

function readRequestId(id: string | undefined): string | undefined {
  if (id === undefined || /^[\x21-\x7E]{1,128}$/.test(id)) return id;
  throw new ImgtxError("E_USAGE", `--txn-id: '${id}' is not an id`, {
    hint: "an id has 1 to 128 printable characters of ASCII, without spaces: `uuidgen` prints one",
  });
}

function notEmpty(text: string | undefined): string | undefined {
  return text === "" ? undefined : text;
}

function readMarkEvery(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,6}(\.\d+)?$/.test(text)) return Math.round(Number(text) * 1000);
  throw new ImgtxError("E_USAGE", `IMGTX_MARK_EVERY: '${text}' is not a number of seconds`);
}

function readWait(text: string | undefined): number {
  if (text === undefined) return 0;
  if (text === WAIT_FOR_GOOD) return Number.POSITIVE_INFINITY;
  if (!/^\d{1,9}(\.\d+)?$/.test(text)) {
    throw new ImgtxError("E_USAGE", `--wait: '${text}' is not a number of seconds`, {
      hint: "say --wait=10, or --wait alone to wait for good",
    });
  }
  return Math.round(Number(text) * 1000);
}
