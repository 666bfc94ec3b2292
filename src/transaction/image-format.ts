// The format that an operator named, as one that imgtx works on.

import { ImgtxError } from "../errors/index.ts";
import type { ImageFormat } from "../format/index.ts";

/** E_UNSUPPORTED for any other name; undefined stays undefined: to be recognised, never guessed as raw. */
export function asImageFormat(
  format: string | undefined,
  device: string,
  image: string,
): ImageFormat | undefined {
  if (format === undefined || format === "qcow2" || format === "raw") return format;
  throw new ImgtxError("E_UNSUPPORTED", `the format '${format}' is not one that imgtx works on`, {
    device,
    image,
    hint: "the formats are qcow2 and raw",
  });
}
