// imgtx doctor [TARGET …]

import type { Examination, Mended } from "../../transaction/index.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { type Invocation, runOptions } from "../invocation.ts";
import { absolutePath } from "../grammar/path.ts";
import { type Diagnosis, drawDiagnosis, diagnosisJson, type Fixed, LEVELS } from "../render/doctor.ts";
import type { Drawing } from "../report.ts";

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
      { command: "imgtx doctor --fix --dry-run .", about: "what --fix would do here" },
    ],
    exits: CHANGING_EXITS,
    exitNote: "It ends with 0 where all is sound, and with 1 where anything was found.",
  },
  async execute(invocation) {
    const { settings, report, input } = invocation;
    const found = await examine(invocation);
    if (!input.flag("--fix")) return tell(invocation, found, []);
    const fixed = await fix(invocation, found);
    const isDone = !settings.dryRun && fixed.some(({ why }) => why === null);
    const after = isDone ? await examine(invocation) : found;
    const status = tell(invocation, after, fixed.map(asFixed));
    if (isDone) report.stopWaiting();
    return status;
  },
};

async function examine(invocation: Invocation): Promise<Examination> {
  const { input, context, settings, progress, signal } = invocation;
  const engine = await invocation.loadEngine();
  const words = input.texts("TARGET");
  const isDevice = await Promise.all(words.map(async (word) => await meansDevice(invocation, word)));
  return await engine.examine(context.storage, {
    paths: words.filter((_, at) => isDevice[at] !== true).map((word) => absolutePath(context.cwd, word)),
    devices: words.filter((_, at) => isDevice[at]),
    startFolder: context.cwd,
    workspace: settings.workspace,
    safeWorkspaces: settings.safeWorkspaces,
    bounds: { ...BOUNDS, files: input.count("--max-files", 1) ?? BOUNDS.files },
    checks: input.flag("--check"),
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
  fixed: readonly Fixed[],
): number {
  const least = LEVELS.findIndex((level) => level === (input.text("--level") ?? "note"));
  const findings = found.findings.filter(({ weight }) => LEVELS.indexOf(weight) <= least);
  const told = findings.map(({ mend, ...finding }) => ({ ...finding, isFixable: mend !== null }));
  const how = { isDryRun: settings.dryRun, words: input.texts("TARGET"), currentFolder: context.cwd };
  report.answer({ ...found, findings: told, fixed, ...how, isBrief: report.quiet }, DIAGNOSIS);
  return findings.length === 0 ? 0 : 1;
}
