// All images as one tree: bases first, and on each what stands on it. A line of images goes straight down, however
// long; only branches are indented. Bases that have nothing in common have an empty line in between.

import { posix } from "node:path";
import type { Allocation, TreeDescription, TreeImage } from "../../transaction/index.ts";
import { formatBytes } from "../../units/index.ts";
import type { Canvas } from "./canvas.ts";
import { drawStrip } from "./strip.ts";
import { drawAge, widthOf, withName, wrapWords } from "./layout.ts";

/** With a strip below each image, where allocations were measured. */
export function drawTree(
  tree: TreeDescription & { readonly allocations?: readonly Allocation[] | undefined },
  canvas: Canvas,
): string[] {
  const lines = layOut(tree, canvas).map((line) => {
    return { ...line, path: nearPath(line.image.image, tree), facts: factsOf(line.image, tree) };
  });
  const widest = Math.max(0, ...lines.map(({ stem, path }) => widthOf(stem) + 2 + widthOf(path)));
  const longest = Math.max(0, ...lines.map(({ facts }) => widthOf(facts.join(", "))));
  const { columns, paint } = canvas;
  const isBeside = columns === undefined || widest + 2 + longest <= columns;
  const drawn = lines.flatMap(({ stem, below, isBase, image, path, facts }, index) => {
    const gapAbove = isBase && index > 0 ? [""] : [];
    const strip = tree.allocations?.find((one) => one.image === image.image)?.strip ?? [];
    const map = strip.length === 0 ? [] : [`${paint.dim(below)}    ${paint.cyan(drawStrip(strip, canvas))}`];
    const head = `${paint.dim(stem)}${paintImage(image, canvas, `${markOf(image, canvas)} ${path}`)}`;
    if (isBeside) {
      const gap = " ".repeat(widest - widthOf(stem) - 2 - widthOf(path) + 2);
      return [...gapAbove, `${head}${gap}${paint.dim(facts.join(", "))}`, ...map];
    }
    const indent = `${below}    `;
    const room = Math.max(12, (columns ?? 0) - widthOf(indent));
    const words = facts
      .map((fact, nth) => (nth < facts.length - 1 ? `${fact},` : fact))
      .flatMap((fact) => (widthOf(fact) > room ? fact.split(" ") : fact));
    return [
      ...gapAbove,
      head,
      ...wrapWords(words, room).map((line) => paint.dim(`${indent}${line}`)),
      ...map,
    ];
  });
  const problems = [
    ...tree.devices.flatMap(({ name, problems: all }) => all.map((problem) => `${name}: ${problem}`)),
    ...tree.problems,
  ];
  return problems.length === 0 ? drawn : [...drawn, "", ...problems.map((problem) => paint.red(problem))];
}

interface Line {
  /** What stands before the image. */
  readonly stem: string;
  /** The same for a line below, before what stands on it. */
  readonly below: string;
  readonly isBase: boolean;
  readonly image: TreeImage;
}

/** Each image once. */
function layOut({ images }: TreeDescription, { branch }: Canvas): Line[] {
  const known = new Set(images.map(({ image }) => image));
  const drawn = new Set<TreeImage>();
  const lines: Line[] = [];
  const onTop = new Map<string, TreeImage[]>();
  for (const image of images.toSorted((a, b) => (a.image < b.image ? -1 : 1))) {
    if (image.backing !== null) onTop.set(image.backing, [...(onTop.get(image.backing) ?? []), image]);
  }
  const draw = (image: TreeImage, stem: string, below: string, isBase = false): void => {
    if (drawn.has(image)) return;
    drawn.add(image);
    const above = onTop.get(image.image) ?? [];
    lines.push({ stem, below: above.length > 1 ? `${below}${branch.bar} ` : below, isBase, image });
    for (const [index, one] of above.entries()) {
      const isLast = index === above.length - 1;
      if (above.length === 1) draw(one, below, below);
      else
        draw(one, `${below}${isLast ? branch.last : branch.more}`, `${below}${isLast ? " " : branch.bar} `);
    }
  };
  for (const image of images) {
    if (image.backing === null || !known.has(image.backing)) draw(image, "", "", true);
  }
  // What stands on itself, as records of different times may have it.
  for (const image of images) draw(image, "", "", true);
  return lines;
}

function markOf({ devices, mirrorOf, state }: TreeImage, { marks }: Canvas): string {
  if (state === "missing") return marks.missing;
  if (devices.length > 0) return marks.active;
  return mirrorOf.length > 0 ? marks.mirror : marks.image;
}

function paintImage({ devices, mirrorOf, state }: TreeImage, { paint }: Canvas, text: string): string {
  if (state !== "ok") return paint.red(text);
  if (devices.length > 0) return paint.green(text);
  return mirrorOf.length > 0 ? paint.cyan(text) : text;
}

function factsOf(image: TreeImage, { now }: Pick<TreeDescription, "now">): string[] {
  const { format, virtualSizeBytes, allocatedBytes, modified, state, snapshots } = image;
  const names = snapshots.map(({ number, name }) => withName(number, name));
  return [
    ...image.devices.map((name) => `active layer of ${name}`),
    ...image.mirrorOf.map((name) => `mirror of ${name}`),
    ...(names.length === 0 ? [] : [`snapshot ${names.join(" ")}`]),
    ...(state === "ok" ? [] : [state === "missing" ? "missing" : "changed since its snapshot"]),
    ...(image.isFenced ? ["frozen"] : []),
    ...image.transactions.map((id) => `in transaction ${id}`),
    format,
    ...(virtualSizeBytes === null ? [] : [formatBytes(virtualSizeBytes)]),
    ...(allocatedBytes === null ? [] : [`${formatBytes(allocatedBytes)} on disk`]),
    ...(modified === null ? [] : [`${drawAge(Date.parse(now) - Date.parse(modified))} old`]),
  ];
}

/** The shortest of the path and what leads there from the workspace or the current folder. */
function nearPath(
  image: string,
  { root, currentFolder }: Pick<TreeDescription, "root" | "currentFolder">,
): string {
  const [nearest = image] = [
    image,
    posix.relative(root, image),
    posix.relative(currentFolder, image),
  ].toSorted((a, b) => a.length - b.length);
  return nearest;
}

/** For Graphviz. */
export function drawDot(tree: TreeDescription): string[] {
  const quote = (text: string): string => `"${text.replace(/[\\"]/g, "\\$&")}"`;
  return [
    "digraph imgtx {",
    "  rankdir=BT",
    "  node [shape=box]",
    ...tree.images.map(
      (image) =>
        `  ${quote(image.image)} [label=${quote([nearPath(image.image, tree), ...factsOf(image, tree)].join("\n"))}]`,
    ),
    ...tree.images.flatMap(({ image, backing }) =>
      backing === null ? [] : [`  ${quote(image)} -> ${quote(backing)}`],
    ),
    "}",
  ];
}

export function drawMermaid(tree: TreeDescription): string[] {
  const ids = new Map(tree.images.map(({ image }, index) => [image, `n${index}`]));
  // A label is HTML, whose entities begin with #.
  const escape = (text: string): string => text.replace(/[#"<>&]/g, (sign) => `#${sign.codePointAt(0)};`);
  return [
    "graph BT",
    ...tree.images.map(
      (image) =>
        `  ${ids.get(image.image)}["${[nearPath(image.image, tree), ...factsOf(image, tree)].map(escape).join("<br>")}"]`,
    ),
    ...tree.images.flatMap(({ image, backing }) =>
      backing === null || !ids.has(backing) ? [] : [`  ${ids.get(image)} --> ${ids.get(backing)}`],
    ),
  ];
}
