// imgtx tree [DEV …]

import type { DeviceDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../invocation.ts";
import type { Drawing } from "../report.ts";
import { drawChains } from "../render/chain.ts";
import { deviceJson, withSchema } from "../render/json.ts";

interface Forest {
  readonly generation: number;
  readonly devices: readonly DeviceDescription[];
}

const FOREST: Drawing<Forest> = {
  text: ({ devices }, canvas) => drawChains(devices, canvas),
  json: ({ generation, devices }) => withSchema({ generation, devices: devices.map(deviceJson) }),
};

export const tree: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      { name: "DEV", about: "only these devices", optional: true, variadic: true, completes: "device" },
    ],
    options: [],
    about:
      "Draws the chain of each device, active layer on top and base at the bottom, and says where an " +
      "image is under another of these devices too.",
    examples: [
      { command: "imgtx tree", about: "all devices" },
      { command: "imgtx tree vda vdb", about: "two of them" },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const names = invocation.input.texts("DEV");
    const { engine, session } = await openToRead(invocation);
    const forest = await engine.describeDevices(session, names.length > 0 ? names : undefined);
    invocation.report.answer(forest, FOREST);
    if (forest.devices.length === 0) invocation.report.advice("no devices yet: imgtx device add NAME FILE");
    return 0;
  },
};
