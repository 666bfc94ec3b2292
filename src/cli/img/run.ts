// `imgtx img VERB …`, and the same under the name of qemu-img: finds the verb, reads its words in
// qemu-img's grammar, and turns what it throws into a message and a status.

import { ImgtxError } from "../../errors/index.ts";
import type { CliContext } from "../context.ts";
import { ALLOW_DEVICES } from "../grammar/allow-devices.ts";
import { ALLOW_PATH, readAllowPaths } from "../grammar/allow-path.ts";
import { absolutePath, adviseOnFolder, namesFolder } from "../grammar/path.ts";
import { watchInterrupts } from "../interrupts.ts";
import { describeBuild, version } from "../version.ts";
import type { ImgCommand, ImgInvocation } from "./command.ts";
import { ImgConsole } from "./output/console.ts";
import { OWN_OPTIONS, type ParsedWords, parseWords } from "./grammar/getopt.ts";
import { ImgInput } from "./grammar/input.ts";
import {
  failure,
  GIVEN_NAME,
  type GivenName,
  type MessageForm,
  type ProgramName,
  statusOf,
  usageError,
} from "./grammar/messages.ts";
import {
  OLDEST,
  QEMU_VERSION,
  type QemuVersion,
  readQemuVersion,
  spokenVersion,
} from "./grammar/qemu-version.ts";
import { HELP_OPTION, STANDARD_OPTIONS } from "./grammar/options.ts";
import { findImgRow } from "./table.ts";

/** What was said before `img`. */
export interface ImgSettings {
  readonly program: ProgramName;
  /** Values of --qemu-img. */
  readonly qemuVersions: readonly string[];
  readonly allowPaths: readonly string[];
  readonly allowsDevices: boolean;
  readonly workspace: string | undefined;
  readonly safeWorkspaces: readonly string[];
  readonly waitMs: number;
  readonly verbose: boolean;
  /** JSON was asked for, for whatever the command prints. */
  readonly json: boolean;
  readonly tellsProgress: boolean;
}

/** Runs what stands after `img`, and returns the exit status. Never throws. */
export async function runImg(
  words: readonly string[],
  settings: ImgSettings,
  context: CliContext,
): Promise<number> {
  const form = new Form(settings);
  const console = new ImgConsole(context, form);
  let failureStatus = 1;
  const interrupts = watchInterrupts(context, {
    later: () => console.error("still stopping"),
    error: (what) => what,
  });
  try {
    const before = readBeforeVerb(words, form, context);
    if (before.isAboutVersion) return printVersion(console, form);
    if (before.isAboutHelp) return await printHelp(console, form, undefined);
    const [verb, ...rest] = before.operands;
    if (verb === undefined) throw usageError("Not enough arguments");
    const row = findImgRow(verb);
    if (row === undefined) throw usageError(`Command not found: ${verb}`);
    form.verb = verb;
    const command: ImgCommand = await row.load();
    failureStatus = command.failureStatus ?? 1;
    const parsed = readWords(rest, command, form, context);
    if (parsed.options.some(({ flag }) => flag === "--help")) return await printHelp(console, form, verb);
    const input = new ImgInput(parsed, settings.json ? "json" : "human", form.qemuVersion);
    refuseObjects(input);
    return await command.execute({
      ...settings,
      input,
      context,
      console,
      qemuVersion: form.qemuVersion,
      ...resolvers(form.names, context),
      signal: interrupts.signal,
      gate: {
        allowPaths: [...settings.allowPaths, ...readAllowPaths(input.texts(ALLOW_PATH), context.cwd)],
        currentFolder: context.cwd,
        allowsDevices: settings.allowsDevices || input.flag(ALLOW_DEVICES),
      },
    });
  } catch (error) {
    const explained = interrupts.explain(error);
    console.failure(explained);
    return statusOf(explained, failureStatus);
  } finally {
    interrupts.stop();
  }
}

/** How messages are printed, as far as that is known at the time. */
class Form implements MessageForm {
  readonly program: ProgramName;
  readonly verbose: boolean;
  readonly names: GivenName[] = [];
  readonly #givenVersions: string[];
  qemuVersion: QemuVersion = OLDEST;
  canForceShare = false;
  verb: string | undefined;

  constructor({ program, verbose, qemuVersions }: ImgSettings) {
    this.program = program;
    this.verbose = verbose;
    this.#givenVersions = [...qemuVersions];
  }

  /** What was said last counts. */
  readVersion(options: ParsedWords["options"], context: CliContext): void {
    for (const { flag, value } of options) if (flag === QEMU_VERSION) this.#givenVersions.push(value ?? "");
    this.qemuVersion = readQemuVersion(this.#givenVersions, context);
  }
}

function readBeforeVerb(words: readonly string[], form: Form, context: CliContext) {
  form.readVersion([], context);
  const { options, operands } = parseWords(words, STANDARD_OPTIONS, form, { stopsAtOperand: true });
  form.readVersion(options, context);
  const first = options.find(({ flag }) => flag === "--version" || flag === "--help")?.flag;
  return { operands, isAboutVersion: first === "--version", isAboutHelp: first === "--help" };
}

function readWords(words: readonly string[], command: ImgCommand, form: Form, context: CliContext) {
  const { definition, endsInOperand = false } = command;
  form.canForceShare = definition.options.some(({ long }) => long === "force-share");
  const all = [...definition.options, HELP_OPTION, ...OWN_OPTIONS];
  const parsed = parseWords(words, all, form, { endsInOperand });
  form.readVersion(parsed.options, context);
  return parsed;
}

function resolvers(
  names: GivenName[],
  { cwd }: CliContext,
): Pick<ImgInvocation, "names" | "resolve" | "resolveTarget"> {
  const resolve = (given: string, verb: string, reason: string): string => {
    const failed = `Could not ${verb} '${given}'`;
    if (given === "") {
      throw new ImgtxError("E_USAGE", `${failed}: No such file or directory`, {
        field: GIVEN_NAME,
        hint: "the name is empty",
      });
    }
    const path = absolutePath(cwd, given);
    if (namesFolder(given)) {
      throw new ImgtxError("E_NOT_A_FILE", `${failed}: ${reason}`, {
        image: path,
        field: GIVEN_NAME,
        hint: adviseOnFolder(given),
      });
    }
    names.push({ given, path });
    return path;
  };
  return {
    names,
    resolve: (given) => resolve(given, "open", "it names a folder, not a regular file"),
    resolveTarget: (given) => resolve(given, "create", "Is a directory"),
  };
}

/** Scripts read the number after "version". */
function printVersion(console: ImgConsole, { program, qemuVersion }: MessageForm): number {
  if (program === "imgtx") console.print(`${describeBuild().join("\n")}\n`);
  else console.print(`qemu-img version ${spokenVersion(qemuVersion)} (imgtx ${version})\n`);
  return 0;
}

async function printHelp(console: ImgConsole, form: MessageForm, verb: string | undefined): Promise<number> {
  const { drawHelp } = await import("./help.ts");
  console.print(await drawHelp(form, verb));
  return 0;
}

/** An object holds a secret or limits a rate: a command that left it out would do something else. */
function refuseObjects(input: ImgInput): void {
  const [object] = input.texts("--object");
  if (object === undefined) return;
  const type = /^(?:qom-type=)?([^,=]*)/.exec(object)?.[1] ?? object;
  throw failure(`--object ${type}: objects of QEMU, such as secrets, are not supported`);
}
