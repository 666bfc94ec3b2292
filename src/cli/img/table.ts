// The commands of `imgtx img`. Each is loaded when it is called.

import type { ImgCommand } from "./command.ts";

export interface ImgRow {
  readonly verb: string;
  readonly summary: string;
  readonly load: () => Promise<ImgCommand>;
}

export const IMG_TABLE: readonly ImgRow[] = [
  {
    verb: "create",
    summary: "make a new image",
    load: async () => (await import("./commands/create.ts")).create,
  },
  {
    verb: "info",
    summary: "say what an image is",
    load: async () => (await import("./commands/info.ts")).info,
  },
  {
    verb: "map",
    summary: "say where a disk's data is stored",
    load: async () => (await import("./commands/map.ts")).map,
  },
  {
    verb: "check",
    summary: "look for errors and leaks in an image",
    load: async () => (await import("./commands/check.ts")).check,
  },
  {
    verb: "convert",
    summary: "copy images into a new one",
    load: async () => (await import("./commands/convert.ts")).convert,
  },
  {
    verb: "dd",
    summary: "copy a part of an image",
    load: async () => (await import("./commands/dd.ts")).dd,
  },
  {
    verb: "compare",
    summary: "say whether two images hold the same",
    load: async () => (await import("./commands/compare.ts")).compare,
  },
  {
    verb: "measure",
    summary: "say how large a new image would become",
    load: async () => (await import("./commands/measure.ts")).measure,
  },
  {
    verb: "bench",
    summary: "measure how fast an image is read or written",
    load: async () => (await import("./commands/bench.ts")).bench,
  },
  {
    verb: "commit",
    summary: "merge an overlay into a backing image",
    load: async () => (await import("./commands/commit.ts")).commit,
  },
  {
    verb: "rebase",
    summary: "put an image on another backing image",
    load: async () => (await import("./commands/rebase.ts")).rebase,
  },
  {
    verb: "resize",
    summary: "give a disk another size",
    load: async () => (await import("./commands/resize.ts")).resize,
  },
  {
    verb: "amend",
    summary: "give an image other properties",
    load: async () => (await import("./commands/amend.ts")).amend,
  },
  {
    verb: "bitmap",
    summary: "change a persistent bitmap",
    load: async () => (await import("./commands/bitmap.ts")).bitmap,
  },
  {
    verb: "snapshot",
    summary: "list, make, apply or delete internal snapshots",
    load: async () => (await import("./commands/snapshot.ts")).snapshot,
  },
];

export function findImgRow(verb: string): ImgRow | undefined {
  return IMG_TABLE.find((row) => row.verb === verb);
}
