// imgtx doctor [TARGET …]

import { ImgtxError } from "../../errors/index.ts";
import type { Examination, GuestDisk, Mended } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { type Invocation, runOptions } from "../running/invocation.ts";
import { absolutePath } from "../grammar/path.ts";
import { type Diagnosis, drawDiagnosis, diagnosisJson, type Fixed, LEVELS } from "../render/doctor.ts";
import type { Drawing } from "../running/report.ts";

/** How much is looked at, where nobody says. */
export const BOUNDS = { files: 20_000, depth: 16 };

const DIAGNOSIS: Drawing<Diagnosis> = {
  text: drawDiagnosis,
  json: diagnosisJson,
  stands: ({ fixed, isDryRun }) =>
    !isDryRun && fixed.some(({ why }) => why === null) ? "what could be was fixed" : undefined,
};

export const doctor: PlainCommand = {
  kind: "plain",
  onlyLooks: (input) => !input.flag("--fix"),
  definition: {
    arguments: [
      {
        name: "TARGET",
        about: "a device, an image, or a folder with all below it; else the whole workspace",
        optional: true,
        variadic: true,
        completes: "file",
      },
    ],
    options: [
      {
        long: "check",
        about: "read all metadata too: clusters that nobody counted, leaks, what a file lacks",
      },
      {
        long: "fix",
        about: "do what loses nothing and is nobody's to decide; with --dry-run, say what that is",
      },
      {
        long: "domain",
        value: { name: "NAME", completes: "file" },
        about: "a domain of libvirt's, or a file of its XML, or - for stdin: the images of its disks",
      },
      {
        long: "for-start",
        about: "tell only what a guest must not be started over: a freeze, an unfinished transaction",
      },
      {
        long: "level",
        value: { name: "LEVEL", completes: LEVELS, choices: LEVELS },
        about: "tell, and count for the exit status, only what is at least so bad; default: note",
      },
      {
        long: "max-files",
        value: { name: "N", completes: "nothing" },
        about: `look at no more files than N; default: ${BOUNDS.files}`,
      },
    ],
    about:
      "Looks for what is wrong with images, or will be, and says of each what, where, how bad, and the command that " +
      "mends it. It needs no workspace, reads headers only unless --check is given, takes no lock, and changes " +
      "nothing without --fix.",
    examples: [
      { command: "imgtx doctor /var/lib/libvirt/images", about: "a folder of images, and all below it" },
      { command: "imgtx doctor", about: "the whole workspace, with its snapshots and transactions" },
      { command: "imgtx doctor --check vda", about: "one device, with all its metadata" },
      { command: "imgtx doctor --domain web1", about: "the images of a guest of libvirt's" },
      { command: "imgtx doctor --fix --dry-run .", about: "what --fix would do here" },
    ],
    exits: CHANGING_EXITS,
    exitNote: "It ends with 0 where all is sound, and with 1 where anything was found.",
  },
  async execute(invocation) {
    const { settings, report, input } = invocation;
    const targets = await readTargets(invocation);
    const found = await examine(invocation, targets);
    if (!input.flag("--fix")) return tell(invocation, found, targets, []);
    const fixed = await fix(invocation, found);
    const isDone = !settings.dryRun && fixed.some(({ why }) => why === null);
    const after = isDone ? await examine(invocation, targets) : found;
    const status = tell(invocation, after, targets, fixed.map(asFixed));
    if (isDone) report.stopWaiting();
    return status;
  },
};

interface Targets {
  readonly paths: readonly string[];
  readonly devices: readonly string[];
  /** Disks of a domain that are among the paths; undefined: no domain was named. */
  readonly disks: readonly GuestDisk[] | undefined;
  /** What --fix is to be given to look at the same. */
  readonly words: readonly string[];
  /** Disks of the domain that are not looked at, a clause each. */
  readonly elsewhere: readonly string[];
}

async function readTargets(invocation: Invocation): Promise<Targets> {
  const { input, context } = invocation;
  const words = input.texts("TARGET");
  const isForStart = input.flag("--for-start");
  const isDevice = await Promise.all(words.map(async (word) => await meansDevice(invocation, word)));
  if (words.includes("")) refuse("the name of a target is empty");
  const paths = words.filter((_, at) => isDevice[at] !== true).map((word) => absolutePath(context.cwd, word));
  const devices = words.filter((_, at) => isDevice[at]);
  if (isForStart && input.flag("--fix")) refuse("--for-start mends nothing: leave out --fix");
  const domain = input.text("--domain");
  if (domain === undefined) return { paths, devices, disks: undefined, words, elsewhere: [] };
  if (words.length > 0) refuse("--domain names all that is looked at: leave out the rest");
  return await readDomainTargets(invocation, domain);
}

async function readDomainTargets(invocation: Invocation, domain: string): Promise<Targets> {
  const { readDomain } = await import("../domain/read-domain.ts");
  const paths: string[] = [];
  const disks: GuestDisk[] = [];
  const elsewhere: string[] = [];
  for (const { target, path, format, why, isRemovable, isReadOnly } of await readDomain(invocation, domain)) {
    const mayBeAway = isRemovable || invocation.input.flag("--for-start");
    const isAway =
      path !== undefined && mayBeAway && (await invocation.context.storage.stat(path)) === undefined;
    if (path !== undefined) disks.push({ path, format, isReadOnly });
    if (path !== undefined && !isAway) paths.push(path);
    else elsewhere.push(`${target} of the domain: ${isAway ? "it is not there" : why}`);
  }
  return { paths, devices: [], disks, words: domain === "-" ? paths : ["--domain", domain], elsewhere };
}

function refuse(why: string): never {
  throw new ImgtxError("E_USAGE", why, { hint: "see `imgtx doctor --help`" });
}

async function examine(
  { input, context, settings, progress, signal, loadEngine }: Invocation,
  { paths, devices, disks }: Targets,
): Promise<Examination> {
  if (input.text("--domain") !== undefined && paths.length === 0) {
    return {
      root: null,
      own: null,
      findings: [],
      opened: 0,
      judged: 0,
      left: [],
      checked: input.flag("--check"),
    };
  }
  const engine = await loadEngine();
  return await engine.examine(context.storage, {
    paths,
    devices,
    ...(disks && { disks }),
    startFolder: context.cwd,
    workspace: settings.workspace,
    safeWorkspaces: settings.safeWorkspaces,
    bounds: { ...BOUNDS, files: input.count("--max-files", 1) ?? BOUNDS.files },
    checks: input.flag("--check"),
    isForStart: input.flag("--for-start"),
    onProgress: progress.update,
    signal,
  });
}

/** A word without a slash that no file has: what is there is what was meant. */
async function meansDevice({ context }: Invocation, word: string): Promise<boolean> {
  if (word.includes("/") || word === "." || word === "..") return false;
  return (await context.storage.statLink(absolutePath(context.cwd, word))) === undefined;
}

async function fix(invocation: Invocation, { findings }: Examination): Promise<readonly Mended[]> {
  const { context, settings } = invocation;
  const engine = await invocation.loadEngine();
  return await engine.mendFindings(context.storage, findings, {
    ...runOptions(invocation, true),
    startFolder: context.cwd,
    safeWorkspaces: settings.safeWorkspaces,
  });
}

function asFixed({ finding: { code, path, text }, why }: Mended): Fixed {
  return { code, path, text, why };
}

function tell(
  { report, settings, input, context }: Invocation,
  found: Examination,
  { elsewhere, words }: Targets,
  fixed: readonly Fixed[],
): number {
  const least = LEVELS.findIndex((level) => level === (input.text("--level") ?? "note"));
  const findings = found.findings.filter(({ weight }) => LEVELS.indexOf(weight) <= least);
  const told = findings.map(({ mend, ...finding }) => ({ ...finding, isFixable: mend !== null }));
  const how = { isDryRun: settings.dryRun, words, currentFolder: context.cwd, elsewhere };
  report.answer({ ...found, findings: told, fixed, ...how, isBrief: report.quiet }, DIAGNOSIS);
  return findings.length === 0 ? 0 : 1;
}
