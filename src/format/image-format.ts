// The formats that imgtx changes, and what space they may get in advance. Other formats are recognised (probe.ts), and refused by
// name.

import { ImgtxError } from "../errors/index.ts";
import { quoteName } from "./quote-name.ts";

export type ImageFormat = "qcow2" | "raw";

/** What a new disk, or the new part of a larger one, gets in advance: entries, and blocks on the disk, or zeros as well. */
export type Preallocation = "off" | "metadata" | "falloc" | "full";

/** A format as a flag or an image's header states it. E_UNSUPPORTED for any other than qcow2 and raw. */
export function parseImageFormat(text: string): ImageFormat {
  if (text === "qcow2" || text === "raw") return text;
  throw new ImgtxError("E_UNSUPPORTED", `format ${quoteName(text)} is not supported`, {
    hint: "imgtx changes qcow2 and raw images; `qemu-img convert -O qcow2` makes one from another format",
  });
}
