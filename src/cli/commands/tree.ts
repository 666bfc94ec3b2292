// imgtx tree [DEV …]

import type { Allocation, TreeDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import type { Drawing } from "../running/report.ts";
import { deviceJson, withSchema } from "../render/json.ts";
import { drawDot, drawMermaid, drawTree } from "../render/tree.ts";

const FORMATS = ["text", "dot", "mermaid", "json"] as const;

/** Parts of a strip: what a terminal of 40 columns has room for. */
const PARTS = 32;

type Told = TreeDescription & { readonly allocations: readonly Allocation[] | undefined };

const TREE: Drawing<Told> = {
  text: drawTree,
  json: ({ generation, devices, images, problems, allocations }) =>
    withSchema({
      generation,
      devices: devices.map(deviceJson),
      images: images.map((image) => ({
        image: image.image,
        format: image.format,
        "virtual-size": image.virtualSizeBytes,
        "allocated-size": image.allocatedBytes,
        backing: image.backing,
        modified: image.modified,
        devices: image.devices,
        "mirror-of": image.mirrorOf,
        snapshots: image.snapshots,
        fenced: image.isFenced,
        transactions: image.transactions,
        state: image.state,
        ...(allocations && { map: allocations.find((one) => one.image === image.image)?.strip ?? [] }),
      })),
      problems,
    }),
};

const DRAWINGS: Readonly<Record<string, Drawing<Told>>> = {
  dot: { ...TREE, text: drawDot },
  mermaid: { ...TREE, text: drawMermaid },
};

export const tree: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      { name: "DEV", about: "only these devices", optional: true, variadic: true, completes: "device" },
    ],
    options: [
      {
        long: "format",
        value: { name: "FORMAT", completes: FORMATS, choices: FORMATS },
        about: "text; dot for Graphviz; mermaid for Markdown; or json",
      },
      { long: "map", about: "with a strip below each image: which parts of the disk it has data for" },
    ],
    about:
      "Draws all images as one tree: bases first, and on each what stands on it, so that devices, snapshots and " +
      "branches that share images share their lines. Says which are active layers, mirrors, kept by snapshots, frozen, " +
      "in a transaction, missing or changed, how large they are and how old. Paths are relative to the workspace or " +
      "the current folder where that is shorter.",
    examples: [
      { command: "imgtx tree", about: "all devices" },
      { command: "imgtx tree vda vdb", about: "two of them" },
      { command: "imgtx tree --map", about: "with what each image has data for" },
      { command: "imgtx tree --format dot | dot -Tsvg > tree.svg", about: "a picture" },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const { input, report } = invocation;
    const names = input.texts("DEV");
    const { engine, session } = await openToRead(invocation);
    const found = await engine.describeTree(session, names.length > 0 ? names : undefined);
    invocation.signal.throwIfAborted();
    const format = input.text("--format") ?? "text";
    const allocations = input.flag("--map")
      ? await engine.measureAllocation(session, found.images, {
          parts: PARTS,
          onProgress: invocation.progress.update,
          signal: invocation.signal,
        })
      : undefined;
    const told = { ...found, allocations };
    if (format === "json") report.answerJson(TREE.json(told));
    else report.answer(told, DRAWINGS[format] ?? TREE);
    if (found.devices.length === 0) report.advice("no devices yet: imgtx device add NAME FILE");
    return 0;
  },
};
