// A strip of blocks for a terminal: how full each part of a disk is.

import type { Canvas } from "./canvas.ts";

/** One character a part, from empty to full. */
export function drawStrip(strip: readonly number[], { blocks }: Pick<Canvas, "blocks">): string {
  const steps = blocks.length - 1;
  return strip
    .map((share) => blocks[share <= 0 ? 0 : Math.min(steps, 1 + Math.floor(share * (steps - 1)))] ?? "")
    .join("");
}
