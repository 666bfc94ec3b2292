// A command of `imgtx img`, and what it has in its hands when it runs.

import type { CliContext } from "../context.ts";
import type { GateOptions } from "../../format/index.ts";
import type { CommandDefinition } from "../grammar/definition.ts";
import type { ImgConsole } from "./output/console.ts";
import type { ImgInput } from "./grammar/input.ts";
import type { GivenName, ProgramName } from "./grammar/messages.ts";
import type { QemuVersion } from "./grammar/qemu-version.ts";

export interface ImgCommand {
  readonly kind: "img";
  readonly definition: CommandDefinition;
  /** What an error that is no usage error ends with; qemu-img's compare has 2 there, all others 1. */
  readonly failureStatus?: number;
  /** Returns the exit status. */
  execute(invocation: ImgInvocation): Promise<number>;
  /** Whether the last word is an operand, whatever it begins with: a size, which may be negative. */
  readonly endsInOperand?: boolean;
}

export interface ImgInvocation {
  readonly input: ImgInput;
  readonly context: CliContext;
  readonly program: ProgramName;
  /** Whose form what is printed has. */
  readonly qemuVersion: QemuVersion;
  readonly console: ImgConsole;
  /** Aborted by the first Ctrl-C, with the error to end with as its reason. */
  readonly signal: AbortSignal;
  /** What the user trusts: where images may lead to, and whether they may be block devices. */
  readonly gate: GateOptions;
  /** The workspace that was named, absolute. */
  readonly workspace: string | undefined;
  /** Workspaces of other users that the caller trusts. */
  readonly safeWorkspaces: readonly string[];
  /** How long to wait for QEMU's locks: 0, as qemu-img does, unless --wait was said before `img`. */
  readonly waitMs: number;
  /** `--progress json` was said before `img`. */
  readonly tellsProgress: boolean;
  /** Absolute path of a given name. Messages name it as it was given from then on. E_NOT_A_FILE for a folder's. */
  resolve(given: string): string;
  /** The same for a file that is to be made. */
  resolveTarget(given: string): string;
  readonly names: GivenName[];
}
