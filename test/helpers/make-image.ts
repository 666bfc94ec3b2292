// Makes small images for tests that run without qemu-img: overlays by imgtx's own writer, and raw files.

import { truncateSync, writeFileSync } from "node:fs";
import type { ImageFormat, OverlayOptions } from "../../src/format/index.ts";
import { planOverlay, writeImage } from "../../src/format/index.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";

export const VIRTUAL_SIZE_BYTES = 1024 * 1024;

export function makeRaw(path: string, sizeBytes: number = VIRTUAL_SIZE_BYTES): string {
  writeFileSync(path, "guest content");
  truncateSync(path, sizeBytes);
  return path;
}

/** An empty overlay at path that names backingName. Nothing is checked: the name may lead anywhere. */
export async function makeOverlay(
  path: string,
  backingName: string,
  backingFormat: ImageFormat = "raw",
  options: OverlayOptions = {},
  virtualSizeBytes: number = VIRTUAL_SIZE_BYTES,
): Promise<string> {
  const plan = await planOverlay({
    backing: { path: backingName, header: undefined },
    virtualSizeBytes,
    backingName,
    backingFormat,
    options,
  });
  const file = await makeNodeStorage().createFile(path, 0o600);
  try {
    await writeImage({ file }, plan);
  } finally {
    await file.close();
  }
  return path;
}
