// The images of a workspace as a picture: bases on the left, and to the right of each what stands on it.
//
// Invariant: each image is drawn once, also where records of different times have it stand on itself.

import { posix } from "node:path";
import type { TreeDescription, TreeImage } from "../../../transaction/index.ts";
import { formatBytes } from "../../../units/index.ts";
import { withName } from "../layout.ts";
import { escapeHtml, shorten } from "./escape.ts";

const BOX = { width: 230, height: 46, gapX: 46, gapY: 14 };
const MARGIN = 8;
/** What fits into a box. */
const CHARACTERS = 30;

interface Placed {
  readonly image: TreeImage;
  readonly x: number;
  readonly y: number;
}

export function drawTreeSvg({ images }: Pick<TreeDescription, "images">): string {
  const placed = place(images);
  const at = new Map(placed.map((one) => [one.image.image, one]));
  const links = placed.flatMap((one) => {
    const below = one.image.backing === null ? undefined : at.get(one.image.backing);
    return below && below.x < one.x ? [drawLink(below, one)] : [];
  });
  const width = Math.max(0, ...placed.map(({ x }) => x + BOX.width)) + MARGIN;
  const height = Math.max(0, ...placed.map(({ y }) => y + BOX.height)) + MARGIN;
  const size = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`;
  const what = "images, each to the right of what it stands on";
  return `<svg ${size} role="img" aria-label="${what}">${links.join("")}${placed.map(drawBox).join("")}</svg>`;
}

/** A leaf takes a row; what others stand on is beside the first of them. */
function place(images: readonly TreeImage[]): readonly Placed[] {
  const onTop = new Map<string, TreeImage[]>();
  for (const image of images.toSorted((a, b) => (a.image < b.image ? -1 : 1))) {
    if (image.backing !== null) onTop.set(image.backing, [...(onTop.get(image.backing) ?? []), image]);
  }
  const known = new Set(images.map(({ image }) => image));
  const placed = new Map<string, Placed>();
  let row = 0;
  // Without recursion: a chain may be 200 images deep.
  const open: { readonly image: TreeImage; readonly depth: number; readonly isFirst: boolean }[] = [];
  const draw = (base: TreeImage): void => {
    open.push({ image: base, depth: 0, isFirst: false });
    for (let next = open.pop(); next; next = open.pop()) {
      const { image, depth, isFirst } = next;
      if (placed.has(image.image)) continue;
      if (!isFirst) row += 1;
      const x = MARGIN + depth * (BOX.width + BOX.gapX);
      placed.set(image.image, { image, x, y: MARGIN + (row - 1) * (BOX.height + BOX.gapY) });
      const above = onTop.get(image.image) ?? [];
      for (const [index, one] of [...above.entries()].toReversed()) {
        open.push({ image: one, depth: depth + 1, isFirst: index === 0 });
      }
    }
  };
  for (const image of images) if (image.backing === null || !known.has(image.backing)) draw(image);
  for (const image of images) draw(image);
  return [...placed.values()];
}

function drawLink(from: Placed, to: Placed): string {
  const [x1, y1] = [from.x + BOX.width, from.y + BOX.height / 2];
  const [x2, y2] = [to.x, to.y + BOX.height / 2];
  const middle = x2 - BOX.gapX / 2;
  return `<path class="link" d="M${x1} ${y1}H${middle}V${y2}H${x2}"/>`;
}

function drawBox({ image, x, y }: Placed): string {
  const facts = factsOf(image);
  const title = escapeHtml([image.image, ...facts].join("\n"));
  const name = escapeHtml(shorten(posix.basename(image.image), CHARACTERS));
  const line = escapeHtml(shorten(facts.join(", "), CHARACTERS + 1));
  return (
    `<g class="${classOf(image)}"><title>${title}</title>` +
    `<rect x="${x}" y="${y}" width="${BOX.width}" height="${BOX.height}" rx="5"/>` +
    `<text x="${x + 9}" y="${y + 19}" class="name">${name}</text>` +
    `<text x="${x + 9}" y="${y + 36}" class="facts">${line}</text></g>`
  );
}

function classOf({ state, devices, mirrorOf, snapshots }: TreeImage): string {
  if (state !== "ok") return "image bad";
  if (devices.length > 0) return "image active";
  if (mirrorOf.length > 0) return "image mirror";
  return snapshots.length > 0 ? "image sealed" : "image";
}

function factsOf({
  devices,
  mirrorOf,
  snapshots,
  state,
  isFenced,
  allocatedBytes,
  format,
}: TreeImage): string[] {
  return [
    ...devices,
    ...mirrorOf.map((name) => `mirror of ${name}`),
    ...snapshots.map(({ number, name }) => withName(number, name)),
    ...(state === "ok" ? [] : [state]),
    ...(isFenced ? ["frozen"] : []),
    ...(allocatedBytes === null ? [] : [formatBytes(allocatedBytes)]),
    format,
  ];
}
