// The file systems and volumes that images lie on: space, locks that others do not see, times that do not tell of each
// write.

import { posix } from "node:path";
import { unlessItFails } from "../../errors/index.ts";
import { hasCoarseTimes, identityOf } from "../../format/index.ts";
import type { FileStat } from "../../storage/index.ts";
import { formatBytes } from "../../units/index.ts";
import { measureSpaces, measureVolumes } from "../describe/status.ts";
import { type Finding, finding } from "./findings.ts";
import type { Scene } from "./scene.ts";

export async function judgeDisks(scene: Scene): Promise<Finding[]> {
  const { storage, given } = scene;
  const files = new Map<string, FileStat>(
    given.flatMap(({ path, image: { stat } }) => (stat.kind === "file" ? [[path, stat] as const] : [])),
  );
  const found: Finding[] = [];
  for (const { folder, freeBytes, totalBytes, isLow } of await measureSpaces(storage, files)) {
    if (!isLow) continue;
    const text = `${formatBytes(freeBytes)} are free of ${formatBytes(totalBytes)}: a guest that writes to an overlay there stops when they are gone`;
    found.push(finding("space-low", { path: folder, text }));
  }
  for (const { folder, freeBytes, totalBytes, isLow } of await measureVolumes(storage, growingOf(scene))) {
    if (!isLow) continue;
    const text = `${formatBytes(freeBytes)} of its volume of ${formatBytes(totalBytes)} are left after the image's end: a guest that writes to it stops when they are gone`;
    found.push(finding("space-low", { path: folder, text }));
  }
  const disks = new Map([...files].map(([path, stat]) => [stat.fileSystem, { path, stat }] as const));
  for (const { path, stat } of disks.values()) {
    const folder = posix.dirname(path);
    const traits = await unlessItFails(() => storage.describeFileSystem(path));
    if (traits?.sharesLocks === false) {
      const text =
        "locks there are not seen by all who reach its file system: who has an image open elsewhere is not found, " +
        "so let one host alone use it, or mount it so that locks go to the server";
      found.push(finding("locks-unshared", { path: folder, text }));
    }
    if (hasCoarseTimes(stat)) {
      const text =
        "times there do not tell of each write: whether an image was changed is not seen from them, and imgtx compares contents";
      found.push(finding("times-coarse", { path: folder, text }));
    }
  }
  return found;
}

/** What a guest may write to: nothing stands on it. */
function growingOf({ images, wards }: Scene): ReadonlyMap<string, FileStat> {
  return new Map(
    images.flatMap(({ path, image: { stat }, overlays }) =>
      overlays.length > 0 || wards.some(({ below }) => below.has(identityOf(stat)))
        ? []
        : [[path, stat] as const],
    ),
  );
}
