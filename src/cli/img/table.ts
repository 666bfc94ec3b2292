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
    load: async () => (await import("./create.ts")).create,
  },
  {
    verb: "compare",
    summary: "say whether two images hold the same",
    load: async () => (await import("./compare.ts")).compare,
  },
];

export function findImgRow(verb: string): ImgRow | undefined {
  return IMG_TABLE.find((row) => row.verb === verb);
}
