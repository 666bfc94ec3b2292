// What `imgtx img` calls the images of a chain and their data files: as qemu-img does, by the name that was
// given, and from there by the names that the images store.

import { type ChainLink, composeBackingPath, isProtocolName, localFileOf } from "../../../format/index.ts";
import { parseImageName } from "../grammar/image-name.ts";

/** The name of the file that an operand means. */
export function nameOfOperand(operand: string, imageOpts: boolean): string {
  return parseImageName(operand, imageOpts).file;
}

/** One name for each image, the given one first. */
export function nameLayers(given: string, links: readonly Pick<ChainLink, "name">[]): string[] {
  const names: string[] = [];
  for (const { name } of links) {
    const above = names.at(-1);
    names.push(above === undefined || name === undefined ? given : nameBackingFile(above, name));
  }
  return names;
}

/** A relative name is relative to the folder of the image that stores it; a protocol's is not a path. */
export function resolveBackingName(overlay: string, name: string): string {
  return isProtocolName(name) ? name : composeBackingPath(overlay, name, "");
}

/** The file that a stored name leads to, as qemu-img prints it. */
export function nameBackingFile(overlay: string, name: string): string {
  return localFileOf(name) ?? resolveBackingName(overlay, name);
}
