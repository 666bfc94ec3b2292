// Where the files of devices go in the folder: each keeps its name, unless another one of the devices' has that there.

import { posix } from "node:path";
import { filesOfEntry } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { type ChainLink, pathsOfLink } from "../../../format/index.ts";
import type { Note } from "../../notes/notes.ts";
import type { PlanContext } from "../plan/action.ts";
import { withNumber } from "../plan/new-overlay.ts";
import type { Layers } from "../way-back/layers.ts";

export interface Places {
  /** The folder. */
  readonly folder: string;
  /** The new path of an image that goes, or of its data file. Undefined: it stays. */
  readonly of: (path: string) => string | undefined;
  /** What is said of those with another name. */
  readonly notes: readonly Note[];
}

/** The first of those with one name keeps it. E_DUPLICATE where two images have one data file. */
export async function findPlaces(
  links: readonly ChainLink[],
  { layers, folder }: { readonly layers: Layers; readonly folder: string },
  { storage, madeHere }: Pick<PlanContext, "storage" | "madeHere">,
): Promise<Places> {
  const files = [...layers.values()].flatMap(({ entry }) => filesOfEntry(entry));
  const taken = new Set(files.flatMap(({ image }) => (posix.dirname(image) === folder ? [image] : [])));
  const going = links.flatMap(pathsOfLink).filter((path) => posix.dirname(path) !== folder);
  assertOnce(going);
  const wanted = new Set(going.map((path) => posix.join(folder, posix.basename(path))));
  // What somebody else has by such a name is in the way of nothing.
  const findFree = async (to: string): Promise<string> => {
    for (let number = 2; ; number += 1) {
      const other = posix.join(folder, withNumber(posix.basename(to), number));
      if (taken.has(other) || wanted.has(other) || madeHere.has(other)) continue;
      if (!(await storage.statLink(other))) return other;
    }
  };
  const places = new Map<string, string>();
  const notes: Note[] = [];
  for (const path of going) {
    const to = posix.join(folder, posix.basename(path));
    const place = taken.has(to) ? await findFree(to) : to;
    taken.add(place);
    places.set(path, place);
    if (place !== to) notes.push({ code: "named apart", image: path, to: place });
  }
  return { folder, of: (path) => places.get(path), notes };
}

function assertOnce(paths: readonly string[]): void {
  const image = paths.find((path, index) => paths.indexOf(path) !== index);
  if (image === undefined) return;
  throw new ImgtxError("E_DUPLICATE", "two images have it as their data file, and each would get its own", {
    image,
    hint: "`imgtx mirror DEV FILE` and `imgtx reopen DEV FILE` give one of them a copy without a data file first",
  });
}
