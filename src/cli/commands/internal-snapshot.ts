// imgtx internal-snapshot create|apply|delete|list DEV … [NAME]

import { ImgtxError } from "../../errors/index.ts";
import type { DeviceSnapshots, InternalSnapshotRequest } from "../../transaction/index.ts";
import type { CommandDefinition } from "../grammar/definition.ts";
import type { ActionCommand, PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS, READING_EXITS } from "../grammar/exit-status.ts";
import { drawSnapshotList, snapshotData } from "../img/output/snapshot-list.ts";
import { openToRead } from "../running/invocation.ts";
import { withSchema } from "../render/json.ts";
import type { Drawing } from "../running/report.ts";
import { confirm } from "./confirm.ts";
import { devicesAndName, readDevicesAndName } from "./devices-and-name.ts";

function makeCommand(
  kind: InternalSnapshotRequest["kind"],
  { about, examples }: Pick<CommandDefinition, "about" | "examples">,
  /** What nothing brings back, as a sentence, of the snapshot's name and the devices. */
  sayLost?: (snapshot: string, devices: string) => string,
): ActionCommand {
  return {
    kind: "action",
    definition: {
      arguments: devicesAndName("snapshot"),
      options: [],
      about,
      examples,
      exits: CHANGING_EXITS,
    },
    request(input) {
      const { devices, name: snapshot } = readDevicesAndName(input);
      if (snapshot === "") throw new ImgtxError("E_USAGE", "the name of a snapshot is empty");
      return { kind, devices, snapshot };
    },
    async confirm(invocation) {
      if (sayLost === undefined) return;
      const { devices, name } = readDevicesAndName(invocation.input);
      await confirm(invocation, sayLost(name, devices.join(" ")));
    },
  };
}

export const internalSnapshotCreate = makeCommand("internal-snapshot-create", {
  about:
    "Keeps the present content of devices inside their images, under a name, at one moment for all of them. " +
    "Clusters are shared until they are written to; nothing is copied. Bitmaps stay as they are. Images have to " +
    "be qcow2, without an external data file.",
  examples: [
    { command: "imgtx internal-snapshot create vda vdb before-upgrade", about: "both disks, or neither" },
  ],
});

export const internalSnapshotApply = makeCommand(
  "internal-snapshot-apply",
  {
    about:
      "Gives devices the content, and the size, that they had at an internal snapshot, all of them or none. What they " +
      "have now is lost where no other snapshot keeps it; the snapshot stays, and so does its VM state. Refused where " +
      "a bitmap would not know of it, and where another image stands on one of them.",
    examples: [
      { command: "imgtx internal-snapshot apply vda vdb before-upgrade", about: "go back, both or neither" },
      { command: "imgtx internal-snapshot apply vda 3", about: "by the number that list shows" },
    ],
  },
  (snapshot, devices) =>
    `What ${devices} has now is lost, but for what snapshots keep: it gets the content of '${snapshot}'.`,
);

export const internalSnapshotDelete = makeCommand(
  "internal-snapshot-delete",
  {
    about:
      "Takes an internal snapshot out of the images of devices, all of them or none. What only it has is given back to " +
      "the image; the devices' content, and other snapshots, stay.",
    examples: [
      { command: "imgtx internal-snapshot delete vda vdb before-upgrade", about: "both, or neither" },
    ],
  },
  (snapshot, devices) => `What only '${snapshot}' keeps of ${devices} is lost.`,
);

const SNAPSHOTS: Drawing<readonly DeviceSnapshots[]> = {
  text: (devices) =>
    devices.flatMap(({ device, image, snapshots }, index) => [
      ...(index === 0 ? [] : [""]),
      `${device}: ${image}`,
      ...(snapshots.length === 0 ? ["no internal snapshots"] : drawSnapshotList(snapshots)),
    ]),
  json: (devices) =>
    withSchema({
      devices: devices.map(({ device, image, snapshots }) => ({
        device,
        image,
        snapshots: snapshots.map(snapshotData),
      })),
    }),
};

export const internalSnapshotList: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      {
        name: "DEV",
        about: "the devices; all without one",
        optional: true,
        variadic: true,
        completes: "device",
      },
    ],
    options: [],
    about:
      "Lists the internal snapshots in the active layers of devices, as qemu-img does: id, name, the size of the VM " +
      "state, when it was taken, and how long the guest had been running.",
    examples: [
      { command: "imgtx internal-snapshot list vda vdb", about: "what both have" },
      {
        command: "imgtx internal-snapshot list --json | jq '.devices[].snapshots[].name'",
        about: "the names alone",
      },
    ],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const { engine, session } = await openToRead(invocation);
    const names = invocation.input.texts("DEV");
    invocation.report.answer(await engine.listInternalSnapshots(session, names), SNAPSHOTS);
    return 0;
  },
};
