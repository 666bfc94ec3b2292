// Files that nothing uses, and what interrupted changes have left. An image is called unused only where there is a workspace
// that says what is used: without one, an image that nothing stands on is somebody's disk.

import { folderBeside, identityOf, isInside, quoteName, shellQuote } from "../../format/index.ts";
import { formatBytes } from "../../units/index.ts";
import { findJournalBeside } from "../recover/beside.ts";
import type { Patient } from "./census.ts";
import { type Finding, finding } from "./findings.ts";
import type { Scene } from "./scene.ts";

export async function judgeOrphans(scene: Scene): Promise<Finding[]> {
  return [...(await findUnused(scene)), ...(await findLeftBeside(scene))];
}

const IMAGE_NAME = /\.(?:raw|img|qcow2|qcow|vmdk|vdi|vhdx?)$/i;

async function findUnused({ storage, given, wards, census }: Scene): Promise<Finding[]> {
  if (wards.length === 0 || wards.some(({ needed }) => needed === undefined)) return [];
  const used = new Set<string>();
  for (const path of wards.flatMap(({ files }) => files)) {
    const stat = census.at(path)?.image.stat ?? (await storage.stat(path));
    if (stat) used.add(identityOf(stat));
  }
  const garbage = new Set(wards.flatMap(({ findings }) => findings.map(({ path }) => path)));
  return given
    .filter((patient) => isUnused(patient, used))
    .flatMap((patient) => {
      const { path, image } = patient;
      const isHere = wards.some(({ root }) => isInside(path, root));
      if (!isHere || garbage.has(path)) return [];
      const sizeBytes = image.stat.allocatedBytes;
      // No command: whether a guest that imgtx knows nothing of has it, nobody can tell from here.
      const text = `no device, snapshot or image uses it, and it takes ${formatBytes(sizeBytes)}: where no guest uses it either, it can go`;
      return [finding("orphan", { path, text, sizeBytes })];
    });
}

/** What stands on something that is used is unused itself, and what it stands on is not. */
function isUnused({ path, image, overlays }: Patient, used: ReadonlySet<string>): boolean {
  if (image.stat.kind !== "file" || overlays.length > 0 || used.has(identityOf(image.stat))) return false;
  return image.probed !== undefined || IMAGE_NAME.test(path);
}

export async function findLeftBeside({
  storage,
  census,
}: Pick<Scene, "storage" | "census">): Promise<Finding[]> {
  const found: Finding[] = [];
  for (const folder of census.foldersBeside) {
    // Of one whose image is gone nothing is known.
    const image = census.patients.find(({ path, others, image: { stat } }) =>
      [path, ...others].some((one) => folder === folderBeside(one, stat)),
    );
    if (!image || !(await findJournalBeside(storage, image.path))) continue;
    found.push(
      finding("change-left-beside", {
        path: image.path,
        text: `a command that changed it was cut off: its journal is in ${quoteName(folder)}`,
        command: `imgtx --workspace ${shellQuote(folder)} recover`,
        mend: { recovers: folder, image: image.path },
      }),
    );
  }
  return found;
}
