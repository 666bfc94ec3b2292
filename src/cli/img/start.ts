// Whether a command line is one of `imgtx img`, and what it says before that word.

import { ImgtxError } from "../../errors/index.ts";
import type { CliContext } from "../context.ts";
import { inheritsDevices } from "../grammar/allow-devices.ts";
import { inheritedAllowPaths } from "../grammar/allow-path.ts";
import { optionFlag } from "../grammar/definition.ts";
import { GLOBAL_OPTIONS } from "../grammar/global-options.ts";
import { inheritedSafeWorkspaces, inheritedWorkspace, type Settings } from "../grammar/settings.ts";
import { QEMU_VERSION, qemuVersionOption } from "./grammar/qemu-version.ts";
import type { ImgSettings } from "./run.ts";

/** The exit status, or undefined where it is no command line of `imgtx img`. */
export async function runAsImg(argv: readonly string[], context: CliContext): Promise<number | undefined> {
  if (context.program === "qemu-img") return start(argv, undefined, context);
  const index = findImg(argv);
  if (index === undefined) return undefined;
  const before = argv.slice(0, index);
  const asksAside = before.some((word) => ["-h", "--help", "-V", "--version"].includes(word));
  if (asksAside) return undefined;
  return start(argv.slice(index + 1), before, context);
}

/** Where `img` stands as the verb: after nothing but options of every command. */
function findImg(argv: readonly string[]): number | undefined {
  for (let index = 0; index < argv.length; index += 1) {
    const word = argv[index] ?? "";
    if (word === "img") return index;
    if (!word.startsWith("-")) return undefined;
    const option = [...GLOBAL_OPTIONS, qemuVersionOption].find((each) => optionFlag(each) === word);
    if (option?.value !== undefined && option.value.optional === undefined) index += 1;
  }
  return undefined;
}

async function start(
  words: readonly string[],
  before: readonly string[] | undefined,
  context: CliContext,
): Promise<number> {
  const { runImg } = await import("./run.ts");
  const { qemuVersions, others } = takeQemuVersions(before ?? []);
  const program = context.program ?? "imgtx";
  let settings: ImgSettings = {
    program,
    qemuVersions,
    allowPaths: inheritedAllowPaths(context),
    allowsDevices: inheritsDevices(context),
    workspace: inheritedWorkspace(context),
    safeWorkspaces: inheritedSafeWorkspaces(context),
    waitMs: 0,
    verbose: false,
    json: false,
    tellsProgress: false,
  };
  if (others.length > 0) {
    const { parseGlobalOptions } = await import("../grammar/parser.ts");
    try {
      settings = { ...fromGlobals(parseGlobalOptions(others, context)), qemuVersions };
    } catch (error) {
      const { Report } = await import("../running/report.ts");
      const plain = { json: false, quiet: false, verbose: false, refusesColor: false };
      return (await Report.create(context, plain)).failure(error);
    }
  }
  return runImg(words, settings, context);
}

/** `--qemu-img`, which is img's alone, may stand before it like what every command has. */
function takeQemuVersions(before: readonly string[]): {
  readonly qemuVersions: readonly string[];
  readonly others: readonly string[];
} {
  const qemuVersions: string[] = [];
  const others: string[] = [];
  for (let index = 0; index < before.length; index += 1) {
    const word = before[index] ?? "";
    if (word === QEMU_VERSION) qemuVersions.push(before[(index += 1)] ?? "");
    else if (word.startsWith(`${QEMU_VERSION}=`)) qemuVersions.push(word.slice(QEMU_VERSION.length + 1));
    else others.push(word);
  }
  return { qemuVersions, others };
}

function fromGlobals(settings: Settings): Omit<ImgSettings, "qemuVersions"> {
  if (settings.dryRun) {
    throw new ImgtxError("E_USAGE", "the commands of img have no --dry-run", {
      hint: "`imgtx img measure` says what a conversion would need",
    });
  }
  if (settings.requestId !== undefined) {
    throw new ImgtxError("E_USAGE", "the commands of img have no --txn-id", {
      hint: "it is for actions on devices, and for `imgtx txn run`",
    });
  }
  const workspace = settings.workspace === undefined ? [] : [settings.workspace];
  return {
    program: "imgtx",
    allowPaths: [...settings.allowPaths, ...workspace],
    allowsDevices: settings.allowsDevices,
    workspace: settings.workspace,
    safeWorkspaces: settings.safeWorkspaces,
    waitMs: settings.waitMs,
    verbose: settings.verbose,
    json: settings.json,
    tellsProgress: settings.tellsProgress,
  };
}
