// imgtx device show NAME

import { ImgtxError } from "../../errors/index.ts";
import type { DeviceDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import type { Drawing } from "../running/report.ts";
import { drawChains } from "../render/chain.ts";
import { deviceJson, withSchema } from "../render/json.ts";

const DEVICE: Drawing<DeviceDescription> = {
  text: (device, canvas) => drawChains([device], canvas),
  json: (device) => withSchema({ device: deviceJson(device) }),
};

export const deviceShow: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [{ name: "NAME", about: "the device", completes: "device" }],
    options: [],
    about: "Shows a device: virtual size, and the images of its chain, active layer first.",
    examples: [
      { command: "imgtx device show vda", about: "draw its chain" },
      {
        command: "imgtx device show vda --json | jq '.device[\"virtual-size\"]'",
        about: "its size in bytes",
      },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const name = invocation.input.argument("NAME");
    const { engine, session } = await openToRead(invocation);
    const { devices } = await engine.describeDevices(session, [name]);
    const [device] = invocation.report.answersJson ? await engine.withHolders(session, devices) : devices;
    if (device === undefined) throw new ImgtxError("E_NO_DEVICE", `there is no device '${name}'`);
    const snapshots = await engine.listKept(session, name);
    invocation.report.answer({ ...device, snapshots }, DEVICE);
    return 0;
  },
};
