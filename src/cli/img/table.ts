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
];

export function findImgRow(verb: string): ImgRow | undefined {
  return IMG_TABLE.find((row) => row.verb === verb);
}
