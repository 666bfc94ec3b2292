// imgtx tree [DEV …]

import type { TreeDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../invocation.ts";
import type { Drawing } from "../report.ts";
import { deviceJson, withSchema } from "../render/json.ts";
import { drawDot, drawMermaid, drawTree } from "../render/tree.ts";

const FORMATS = ["text", "dot", "mermaid", "json"] as const;

const TREE: Drawing<TreeDescription> = {
  text: drawTree,
  json: ({ generation, devices, images, problems }) =>
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
      })),
      problems,
    }),
};

const DRAWINGS: Readonly<Record<string, Drawing<TreeDescription>>> = {
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
    ],
    about:
      "Draws all images as one tree: bases first, and on each what stands on it, so that devices, snapshots and " +
      "branches that share images share their lines. Says which are active layers, mirrors, kept by snapshots, frozen, " +
      "in a transaction, missing or changed, how large they are and how old. Paths are relative to the workspace or " +
      "the current folder where that is shorter.",
    examples: [
      { command: "imgtx tree", about: "all devices" },
      { command: "imgtx tree vda vdb", about: "two of them" },
      { command: "imgtx tree --format dot | dot -Tsvg > tree.svg", about: "a picture" },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const { input, report } = invocation;
    const names = input.texts("DEV");
    const { engine, session } = await openToRead(invocation);
    const found = await engine.describeTree(session, names.length > 0 ? names : undefined);
    const format = input.text("--format") ?? "text";
    if (format === "json") report.answerJson(TREE.json(found));
    else report.answer(found, DRAWINGS[format] ?? TREE);
    if (found.devices.length === 0) report.advice("no devices yet: imgtx device add NAME FILE");
    return 0;
  },
};
