// imgtx device list

import type { DeviceDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import type { Drawing } from "../running/report.ts";
import { deviceJson, withSchema } from "../render/json.ts";
import { drawDevices } from "../render/lists.ts";

interface DeviceList {
  readonly generation: number;
  readonly devices: readonly DeviceDescription[];
}

const TABLE: Drawing<DeviceList> = {
  text: ({ devices }, canvas) => (devices.length === 0 ? [] : drawDevices(devices, canvas)),
  json: ({ generation, devices }) => withSchema({ generation, devices: devices.map(deviceJson) }),
};

export const deviceList: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [],
    options: [{ long: "check", about: "end with 1 where any device is not as it should be" }],
    about:
      "Lists the devices of the present generation: name, format, virtual size, how many images are in " +
      "the chain, its state, and the active layer. A device that waits for recovery, is missing, broken or fenced " +
      "is told of below. With --quiet the names alone, one a line.",
    examples: [
      { command: "imgtx device list", about: "a table" },
      { command: "imgtx device list --check -q", about: "for monitoring: status 1 where something is wrong" },
      { command: "imgtx device list --json | jq -r '.devices[].image'", about: "the active layers" },
    ],
    exits: READING_EXITS,
    exitNote: "With --check, 1 also says that a device is not as it should be.",
  },
  async execute(invocation) {
    const { input, report } = invocation;
    const { engine, session } = await openToRead(invocation);
    const givesNames = report.quiet && !report.answersJson;
    if (givesNames && !input.flag("--check")) {
      // A completion asks for them: no image is opened.
      report.answerNames(await engine.listDeviceNames(session));
      return 0;
    }
    const { generation, devices } = await engine.describeDevices(session, undefined);
    // The table does not show who has images open, and to find that takes as long as all else.
    const shown = report.answersJson ? await engine.withHolders(session, devices) : devices;
    if (givesNames) report.answerNames(devices.map(({ name }) => name));
    else report.answer({ generation, devices: shown }, TABLE);
    if (devices.length === 0) report.advice("no devices yet: imgtx device add NAME FILE");
    const isSound = devices.every(({ state }) => state === "ok");
    return input.flag("--check") && !isSound ? 1 : 0;
  },
};
