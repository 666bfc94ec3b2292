// imgtx report FILE

import { ImgtxError } from "../../errors/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { type Invocation, openToRead, type OpenSession } from "../running/invocation.ts";
import { withSchema } from "../render/json.ts";
import { printableData } from "../render/printable.ts";
import { drawPage, type ReportData } from "../render/report/page.ts";
import type { Drawing } from "../running/report.ts";
import { BOUNDS } from "./doctor.ts";

/** Parts of a strip, and generations of the history, that a page has room for. */
const PARTS = 256;
const GENERATIONS_MAX = 500;

interface Written {
  readonly file: string;
  readonly sizeBytes: number;
  readonly findings: number;
  readonly isDryRun: boolean;
}

const WRITTEN: Drawing<Written> = {
  text: ({ file, findings, isDryRun }) => [
    `${isDryRun ? "Would write" : "Wrote"} ${file}, with ${findings} ${findings === 1 ? "finding" : "findings"}.`,
  ],
  json: ({ file, sizeBytes, findings, isDryRun }) =>
    withSchema({ changed: !isDryRun, file, size: sizeBytes, findings }),
  stands: ({ file, isDryRun }) => (isDryRun ? undefined : `'${file}' was written`),
};

export const report: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [{ name: "FILE", about: "the page to make", completes: "file" }],
    options: [{ long: "overwrite", about: "FILE may be there, as a page or empty, and is replaced" }],
    about:
      "Writes a page of HTML about the workspace: what doctor finds, the state of its devices, all images as a picture, " +
      "what each of them has data for, snapshots, and the history. It is one file that loads nothing and has no " +
      "script, to be mailed, kept or printed. Takes no lock, and changes nothing else.",
    examples: [
      { command: "imgtx report disks.html", about: "a page beside the workspace" },
      { command: "imgtx report --overwrite /var/www/disks.html", about: "each night anew" },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const { input, context, settings, report: out } = invocation;
    const file = input.path("FILE");
    const overwrite = input.flag("--overwrite");
    const open = await openToRead(invocation);
    const { engine } = open;
    await engine.assertWritable(context.storage, file, { overwrite });
    const data = await gather(invocation, open);
    const page = new TextEncoder().encode(drawPage(printableData(data)));
    const isDryRun = settings.dryRun;
    invocation.signal.throwIfAborted();
    if (!isDryRun) await engine.writeNewFile(context.storage, file, page, { overwrite });
    out.done({ file, sizeBytes: page.length, findings: data.findings.length, isDryRun }, WRITTEN);
    return 0;
  },
};

async function gather(invocation: Invocation, { engine, session }: OpenSession): Promise<ReportData> {
  const { context, settings, progress, signal } = invocation;
  const tree = await engine.describeTree(session, undefined);
  signal.throwIfAborted();
  const examination = await engine.examine(context.storage, {
    paths: [],
    devices: [],
    startFolder: context.cwd,
    workspace: session.root,
    safeWorkspaces: settings.safeWorkspaces,
    bounds: BOUNDS,
    checks: false,
    onProgress: progress.update,
    signal,
  });
  if (!examination.own) {
    throw new ImgtxError("E_CHANGED", "the workspace can't be read any more", {
      image: session.root,
      hint: "`imgtx doctor` says why",
    });
  }
  const { status, snapshots } = examination.own;
  return {
    tree,
    status,
    allocations: await engine.measureAllocation(session, tree.images, {
      parts: PARTS,
      onProgress: progress.update,
      signal,
    }),
    snapshots,
    history: await engine.listGenerations(session, { count: GENERATIONS_MAX }),
    findings: examination.findings.map(({ mend: _mend, ...one }) => one),
    left: examination.left,
  };
}
