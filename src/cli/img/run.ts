// `imgtx img VERB …`, and the same under the name of qemu-img: finds the verb, reads its words in
// qemu-img's grammar, and turns what it throws into a message and a status.

import { ImgtxError } from "../../errors/index.ts";
import type { CliContext } from "../context.ts";
import { ALLOW_PATH, allowPathOption, readAllowPaths } from "../grammar/allow-path.ts";
import { absolutePath, adviseOnFolder, namesFolder } from "../grammar/path.ts";
import { watchInterrupts } from "../interrupts.ts";
import { version } from "../version.ts";
import type { ImgCommand, ImgInvocation } from "./command.ts";
import { ImgConsole } from "./console.ts";
import { parseWords } from "./getopt.ts";
import { ImgInput } from "./input.ts";
import { failure, type GivenName, type ProgramName, statusOf, usageError } from "./messages.ts";
import { findImgRow } from "./table.ts";

/** What was said before `img`. */
export interface ImgSettings {
  readonly program: ProgramName;
  readonly allowPaths: readonly string[];
  readonly workspace: string | undefined;
  readonly safeWorkspaces: readonly string[];
  readonly waitMs: number;
  readonly verbose: boolean;
  /** JSON was asked for, for whatever the command prints. */
  readonly json: boolean;
  readonly tellsProgress: boolean;
}

// Before the verb, as qemu-img has them.
const STANDARD_OPTIONS = [
  { long: "help", short: "h", about: "print the commands" },
  { long: "version", short: "V", about: "print the version" },
  {
    long: "trace",
    short: "T",
    value: { name: "TRACE", completes: "nothing" },
    about: "taken, without effect",
  },
] as const;

const HELP_OPTION = { long: "help", short: "h", about: "explain the command" } as const;

/** Runs what stands after `img`, and returns the exit status. Never throws. */
export async function runImg(
  words: readonly string[],
  settings: ImgSettings,
  context: CliContext,
): Promise<number> {
  const names: GivenName[] = [];
  const form = { program: settings.program, names, verbose: settings.verbose, canForceShare: false };
  const console = new ImgConsole(context, form);
  let failureStatus = 1;
  const interrupts = watchInterrupts(context, {
    later: () => console.error("still stopping"),
    error: (what) => what,
  });
  try {
    const { options, operands } = parseWords(words, STANDARD_OPTIONS, settings.program, {
      stopsAtOperand: true,
    });
    for (const { flag } of options) {
      if (flag === "--version") return printVersion(console, settings.program);
      if (flag === "--help") return await printHelp(console, settings.program, undefined, context);
    }
    const [verb, ...rest] = operands;
    if (verb === undefined) throw usageError("Not enough arguments");
    const row = findImgRow(verb);
    if (row === undefined) throw usageError(`Command not found: ${verb}`);
    const command: ImgCommand = await row.load();
    failureStatus = command.failureStatus ?? 1;
    form.canForceShare = command.definition.options.some(({ long }) => long === "force-share");
    const { definition, endsInOperand = false } = command;
    const parsed = parseWords(rest, [...definition.options, HELP_OPTION, allowPathOption], verb, {
      endsInOperand,
    });
    if (parsed.options.some(({ flag }) => flag === "--help")) {
      return await printHelp(console, settings.program, verb, context);
    }
    const input = new ImgInput(parsed, settings.json ? "json" : "human");
    refuseObjects(input);
    const resolve = (given: string, failed: string): string => {
      const path = absolutePath(context.cwd, given);
      names.push({ given, path });
      if (!namesFolder(given)) return path;
      throw new ImgtxError("E_NOT_A_FILE", failed, { image: path, hint: adviseOnFolder(given) });
    };
    const invocation: ImgInvocation = {
      ...settings,
      input,
      context,
      console,
      names,
      resolve: (given) => resolve(given, `Could not open '${given}': it names a folder, not a regular file`),
      resolveTarget: (given) => resolve(given, `Could not create '${given}': Is a directory`),
      signal: interrupts.signal,
      allowPaths: [...settings.allowPaths, ...readAllowPaths(input.texts(ALLOW_PATH), context.cwd)],
    };
    return await command.execute(invocation);
  } catch (error) {
    const explained = interrupts.explain(error);
    console.failure(explained);
    return statusOf(explained, failureStatus);
  } finally {
    interrupts.stop();
  }
}

/** Scripts read the number after "version"; it is the one of the qemu-img whose grammar this is. */
const SPOKEN_VERSION = "7.2.0";

function printVersion(console: ImgConsole, program: ProgramName): number {
  if (program === "imgtx") console.print(`imgtx ${version}\n`);
  else console.print(`qemu-img version ${SPOKEN_VERSION} (imgtx ${version})\n`);
  return 0;
}

/** Under its own name in the house's form; under qemu-img's all of it at any verb, as qemu-img prints it. */
async function printHelp(
  console: ImgConsole,
  program: ProgramName,
  verb: string | undefined,
  context: CliContext,
): Promise<number> {
  if (program === "qemu-img") {
    const { drawQemuHelp } = await import("./help.ts");
    console.print(await drawQemuHelp());
    return 0;
  }
  const [{ helpFor }, { makeCanvas }] = await Promise.all([
    import("../commands/help.ts"),
    import("../render/canvas.ts"),
  ]);
  const canvas = await makeCanvas(context.stdout, context.env, false);
  console.print(`${(await helpFor(verb === undefined ? ["img"] : ["img", verb], canvas)).join("\n")}\n`);
  return 0;
}

/** An object holds a secret or limits a rate: a command that left it out would do something else. */
function refuseObjects(input: ImgInput): void {
  const [object] = input.texts("--object");
  if (object === undefined) return;
  const type = /^(?:qom-type=)?([^,=]*)/.exec(object)?.[1] ?? object;
  throw failure(`--object ${type}: objects of QEMU, such as secrets, are not supported`);
}
