// What only reading all metadata tells: clusters that are used and not counted, lost ones, and what a file lacks. Done where
// that was asked for.

import { ImgtxError, whileOpen } from "../../errors/index.ts";
import { checkQcow2, describeCutOff, shellQuote } from "../../format/index.ts";
import { formatBytes } from "../../units/index.ts";
import type { OnProgress } from "../requests/request.ts";
import type { Patient } from "./census.ts";
import { type Finding, finding } from "./findings.ts";
import { repairing } from "./headers.ts";
import type { Scene } from "./scene.ts";

export async function judgeCounts(
  { storage, images: all }: Scene,
  {
    onProgress,
    signal,
  }: { readonly onProgress?: OnProgress | undefined; readonly signal?: AbortSignal | undefined },
): Promise<Finding[]> {
  const images = all.filter(({ image }) => image.header?.missingTables.length === 0);
  const found: Finding[] = [];
  const totalBytes = images.reduce((sum, { image }) => sum + image.stat.sizeBytes, 0);
  let doneBytes = 0;
  for (const patient of images) {
    const { path, image } = patient;
    signal?.throwIfAborted();
    onProgress?.("checking", doneBytes, totalBytes);
    await whileOpen(await storage.openFile(path, "read", { mayBeDevice: true }), async (file) => {
      found.push(...(await judgeOne(file, patient)));
    });
    doneBytes += image.stat.sizeBytes;
  }
  onProgress?.("checking", totalBytes, totalBytes);
  return found;
}

type File = Parameters<typeof checkQcow2>[0];

async function judgeOne(file: File, { path, image }: Patient): Promise<Finding[]> {
  const seen = {
    uncounted: 0,
    firstOffset: 0,
    /** Whether an entry is damaged itself: no repair knows what it was. */
    isBeyondRepair: false,
    missing: undefined as { start: number; end: number } | undefined,
  };
  const onDanger: NonNullable<NonNullable<Parameters<typeof checkQcow2>[3]>["onDanger"]> = (danger) => {
    if (danger.kind === "uncounted") {
      if (seen.uncounted === 0) seen.firstOffset = danger.offset;
      seen.uncounted += 1;
    } else if (danger.kind === "missing") {
      const { start, end } = seen.missing ?? danger;
      seen.missing = { start: Math.min(start, danger.start), end: Math.max(end, danger.end) };
    } else if (danger.kind === "other") {
      seen.isBeyondRepair = true;
    }
  };
  const salvage = `imgtx img convert --salvage -f qcow2 -O qcow2 ${shellQuote(path)} ${shellQuote(`${path}.salvaged`)}`;
  const repair = `imgtx img check -r all ${shellQuote(path)}`;
  try {
    const { corruptions, leaks } = await checkQcow2(file, () => undefined, undefined, { onDanger });
    const { sizeBytes } = await file.stat();
    const found: Finding[] = [];
    if (seen.missing && seen.missing.end > sizeBytes) {
      const { start } = seen.missing;
      const text = `it is cut off: ${describeCutOff({ ...seen.missing, sizeBytes })}`;
      found.push(finding("cut-off", { path, text, offset: start, command: salvage }));
    }
    if (seen.uncounted > 0) {
      const offset = seen.firstOffset;
      const text = `${seen.uncounted} clusters are in use, and not counted as that, the first at 0x${offset.toString(16)}: the next write may land on them`;
      found.push(finding("uncounted", { path, text, offset, command: repair }));
    }
    if (seen.isBeyondRepair) {
      const text = `a check finds ${corruptions} errors in its tables, and what entries were can't be told: the command takes a copy of all that can be read`;
      found.push(finding("damaged", { path, text, command: salvage }));
    } else if (corruptions > 0 && seen.uncounted === 0 && !seen.missing) {
      const text = `a check finds ${corruptions} errors in its tables`;
      found.push(finding("damaged", { path, text, command: repair }));
    }
    if (leaks > 0) {
      const text = `${leaks} clusters are counted as used, and are not: ${formatBytes(leaks * (image.header?.clusterSizeBytes ?? 0))} are lost`;
      const command = `imgtx img check -r leaks ${shellQuote(path)}`;
      found.push(finding("leaks", { path, text, command, mend: repairing(path, "leaks") }));
    }
    return found;
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    return [
      finding("damaged", {
        path,
        text: `it can't be checked: ${error.message}`,
        offset: error.offset ?? null,
      }),
    ];
  }
}
