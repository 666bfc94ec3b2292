// device trust: keeps a place that a device's images may lead to. No image is written to, and the device need not
// open without it: that is what the command is for.

import { requireDevice, withTrusted } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { type Action, MAKES_NO_FILES } from "./plan/action.ts";
import type { DeviceTrustRequest } from "../request.ts";

export const deviceTrust: Action<DeviceTrustRequest> = {
  saying: { noun: "trust", done: "trust kept", planned: "trust would be kept" },
  mayDoNothing: true,

  async plan({ device, place }, context) {
    const entry = requireDevice(context.table, device);
    const kind = (await context.storage.stat(place))?.kind;
    if (kind !== "folder" && kind !== "file") {
      const [code, what] =
        kind === undefined
          ? (["E_NOT_FOUND", "not there"] as const)
          : (["E_NOT_A_FILE", "neither a folder nor a file"] as const);
      throw new ImgtxError(code, `what is to be trusted is ${what}`, {
        device,
        image: place,
        hint: "name a folder, or a single file, that exists",
      });
    }
    const path = await context.storage.realPath(place);
    const isKnown = entry.trusted?.includes(path) === true;
    return {
      ...MAKES_NO_FILES,
      devices: [device],
      reports: [
        {
          kind: "device-trust",
          device,
          before: entry.image,
          after: entry.image,
          format: entry.format,
          files: [],
          notes: [{ code: isKnown ? "trusted already" : "trusted", image: path }],
        },
      ],
      changes: isKnown ? [] : [{ device, after: withTrusted(entry, [path]) }],
      allowPaths: [],
      chains: [],
    };
  },
};
