// Who will be refused: users who own an overlay, and could not open what it stands on.

import { posix } from "node:path";
import { canOpen, quoteName, shellQuote } from "../../format/index.ts";
import type { Patient } from "./census.ts";
import { type Finding, finding } from "./findings.ts";
import type { Scene } from "./scene.ts";

const ROOT = 0;

export async function judgeAccess(scene: Scene): Promise<Finding[]> {
  const found: Finding[] = [];
  for (const patient of scene.images) {
    for (const lead of [patient.backing, patient.dataFile]) {
      if (lead?.target) found.push(...(await judgeOwner(scene, patient, lead.target)));
    }
  }
  return found;
}

async function judgeOwner({ storage }: Scene, { path, image }: Patient, below: Patient): Promise<Finding[]> {
  const { ownerId } = image.stat;
  if (ownerId === ROOT || ownerId === below.image.stat.ownerId) return [];
  const [real, ownImage] = [await storage.realPath(below.path), await storage.realPath(path)];
  if (await canOpen(storage, ownerId, real, { access: "read", ownImage })) return [];
  const owner = storage.host.nameOfUser(ownerId);
  const text = `${owner}, who owns it, can't read ${quoteName(real)}, which it stands on`;
  return [finding("owner-shut-out", { path, text, command: sayOpening(real, below) })];
}

/** Where others may read it, a folder on the way is what lacks: that is shown. */
function sayOpening(real: string, { image: { stat } }: Patient): string {
  const isOpen = (stat.mode & 0o004) !== 0;
  return isOpen ? `namei -l ${shellQuote(posix.dirname(real))}` : `chmod o+r ${shellQuote(real)}`;
}
