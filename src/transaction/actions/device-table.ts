// device add, remove, rename, trust and provision: devices enter and leave the table, get other names, and say where their
// images may lead to, and what makes their volumes. No image is written to.

import {
  assertDeviceName,
  findDevice,
  requireDevice,
  withTrusted,
  type DeviceEntry,
} from "../../device/index.ts";
import { ImgtxError, unlessItFails, withPlace } from "../../errors/index.ts";
import { findCutOffImages, shellQuote } from "../../format/index.ts";
import { type Action, MAKES_NO_FILES, type PlanContext } from "./plan/action.ts";
import { activeLayer, deviceEntryOf } from "./plan/chain-entry.ts";
import { assertNotFrozen, findFences } from "./plan/fencing.ts";
import { noteStanding } from "./plan/overlays-of.ts";
import { assertQemuOpens } from "../images/openable.ts";
import { assertRunnable } from "../images/provisioner.ts";
import type { Note } from "../notes/notes.ts";
import type {
  DeviceAddRequest,
  DeviceProvisionRequest,
  DeviceRemoveRequest,
  DeviceRenameRequest,
  DeviceTrustRequest,
} from "../requests/device-requests.ts";

export const deviceAdd: Action<DeviceAddRequest> = {
  saying: { noun: "add", done: "added", planned: "would be added" },
  takenBackBy: "undo",
  async plan({ device, file, format, allowPaths, provision }, context) {
    assertDeviceName(device);
    const present = findDevice(context.table, device);
    if (present) {
      const remove = `imgtx device remove ${device}`;
      throw isTaken(
        present,
        device,
        `remove it first with \`${remove}\`, or give it another image with \`imgtx reopen ${device} ${shellQuote(file)}\``,
      );
    }
    const path = await context.canonicalPath(file, device);
    const chain = await context.openChain(path, format, device, allowPaths, { mayBeHalfChanged: true });
    await assertQemuOpens(device, chain);
    if (provision) await withPlace({ device }, async () => await assertRunnable(context.storage, provision));
    const top = activeLayer(chain);
    return {
      ...MAKES_NO_FILES,
      devices: [device],
      reports: [
        {
          kind: "device-add",
          device,
          before: null,
          after: path,
          format: top.format,
          files: [],
          notes: [
            ...chain.links.flatMap((link) => link.warnings),
            ...(await findCutOffImages(chain)),
            ...(await noteStanding(device, path, context)),
            ...findFences(device, chain, context.table),
            ...(provision ? [noteOn(provision)] : []),
          ],
        },
      ],
      changes: [{ device, after: { ...deviceEntryOf(device, chain), ...(provision && { provision }) } }],
      allowPaths,
      chains: [{ device, chain }],
    };
  },
};

export const deviceRemove: Action<DeviceRemoveRequest> = {
  saying: { noun: "remove", done: "removed", planned: "would be removed" },
  takenBackBy: "undo",
  endsCopies: true,

  async plan({ device }, context) {
    const entry = requireDevice(context.table, device);
    assertNotFrozen(entry, "nobody would know any more how to lift its fence");
    const { image, format } = entry;
    // Opened for what the history has to know: the images as the device left them, which a way back must find again. A chain
    // that can't be opened has nothing to come back to, and its device can be removed all the same.
    const chain = await unlessItFails(() =>
      context.openChain(image, format, device, [], { mayBeHalfChanged: true }),
    );
    return {
      ...MAKES_NO_FILES,
      devices: [device],
      reports: [
        {
          kind: "device-remove",
          device,
          before: image,
          after: null,
          format: null,
          files: [],
          notes: [{ code: "images stay" }],
        },
      ],
      changes: [{ device, after: null }],
      allowPaths: [],
      chains: chain ? [{ device, chain }] : [],
    };
  },
};

/** Its images are not looked at: they are the same, and a device that can't be opened can have another name. */
export const deviceRename: Action<DeviceRenameRequest> = {
  saying: { noun: "rename", done: "renamed", planned: "would be renamed" },
  takenBackBy: "undo",

  async plan({ device, name }, context) {
    const entry = requireDevice(context.table, device);
    assertDeviceName(name);
    if (name === device) {
      throw new ImgtxError("E_REFUSED", `it is called '${name}' already`, {
        device,
        hint: "give it another name",
      });
    }
    await assertNameFree(name, device, context);
    if ((await context.readUnfinished()).has(device)) {
      throw new ImgtxError("E_REFUSED", "a copy of it was cut off, and goes on under the name that it has", {
        device,
        hint: `\`imgtx mirror --cancel ${device}\` removes what there is of the copy; the same \`imgtx mirror ${device} FILE\` goes on with it`,
      });
    }
    const { image, format } = entry;
    return {
      ...MAKES_NO_FILES,
      devices: [device, name],
      reports: [
        {
          kind: "device-rename",
          device: name,
          before: image,
          after: image,
          format,
          files: [],
          notes: [{ code: "renamed from", device }],
        },
      ],
      changes: [
        { device, after: null },
        { device: name, after: { ...entry, name } },
      ],
      renames: [{ from: device, to: name }],
      allowPaths: [],
      chains: [],
    };
  },
};

/** E_EXISTS where another device has the name, or had it: snapshots would keep two devices by one name. */
async function assertNameFree(
  name: string,
  device: string,
  { table, snapshots }: Pick<PlanContext, "table" | "snapshots">,
): Promise<void> {
  const present = findDevice(table, name);
  if (present) {
    const first = `imgtx device rename ${name} OTHER`;
    const hint = `take another name; two devices change names through a third, in one transaction: \`${first}\` comes first`;
    throw isTaken(present, device, hint);
  }
  for (const ref of table.snapshots) {
    const { number, devices } = await snapshots.read(ref);
    if (devices.every((one) => one.device !== name)) continue;
    throw new ImgtxError("E_EXISTS", `snapshot ${number} keeps an earlier device '${name}'`, {
      device,
      hint: `take another name, or \`imgtx snapshot-delete ${number} --device ${name} --keep-images\` first`,
    });
  }
}

/** The device need not open without the place: that is what the command is for. */
export const deviceTrust: Action<DeviceTrustRequest> = {
  saying: { noun: "trust", done: "trust kept", planned: "trust would be kept" },
  mayDoNothing: true,

  async plan({ device, place }, context) {
    const entry = requireDevice(context.table, device);
    const kind = (await context.storage.stat(place))?.kind;
    if (kind !== "folder" && kind !== "file" && kind !== "device") {
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
    // A volume is kept by its name: what that leads to has another number after each start.
    const path =
      kind === "device" ? await context.canonicalPath(place, device) : await context.storage.realPath(place);
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

export const deviceProvision: Action<DeviceProvisionRequest> = {
  saying: { noun: "provisioner", done: "provisioner kept", planned: "provisioner would be kept" },
  takenBackBy: "undo",
  mayDoNothing: true,

  async plan({ device, provision }, context) {
    const { provision: before, ...entry } = requireDevice(context.table, device);
    if (provision) await withPlace({ device }, async () => await assertRunnable(context.storage, provision));
    const isSame = JSON.stringify(before ?? null) === JSON.stringify(provision);
    return {
      ...MAKES_NO_FILES,
      devices: [device],
      reports: [
        {
          kind: "device-provision",
          device,
          before: entry.image,
          after: entry.image,
          format: entry.format,
          files: [],
          notes: [provision ? noteOn(provision) : { code: "no provisioner" }],
        },
      ],
      changes: isSame ? [] : [{ device, after: { ...entry, ...(provision && { provision }) } }],
      allowPaths: [],
      chains: [],
    };
  },
};

function noteOn(provision: readonly string[]): Note {
  return { code: "provisioner", command: provision.map(shellQuote).join(" ") };
}

function isTaken({ name, image }: DeviceEntry, device: string, hint: string): ImgtxError {
  return new ImgtxError("E_EXISTS", `there is a device '${name}' already`, { device, image, hint });
}
