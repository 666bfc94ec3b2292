// The actions, by the names that QMP has for them: what QEMU 7.2 takes in a transaction, and what the
// proposals of 2012 wanted to. Each is a command of its own as well.

import type { SnapshotTarget } from "../../../transaction/index.ts";
import { BITMAP_READERS } from "./bitmaps.ts";
import { blockdevBackup, driveBackup, driveMirror } from "./copies.ts";
import { Members, misused, refused } from "./members.ts";
import type { ActionReader, Scope } from "./scope.ts";
import type { Step } from "./steps.ts";

const snapshotSync: ActionReader = (data, scope) => {
  if (data.has("device") === data.has("node-name")) {
    throw misused(data.place, "one of device and node-name names the device");
  }
  const device = scope.device(data, data.has("device") ? "device" : "node-name");
  const target = readSnapshotTarget(data, device, scope);
  const mode = data.choice("mode", ["absolute-paths", "existing"]) ?? "absolute-paths";
  scope.giveNode(data, "snapshot-node-name");
  return [snapshotStep("snapshot", [target], mode === "existing")];
};

/** J. Cody's: a list of {device, snapshot-file, format}, under `devlist` or as the arguments themselves. */
export const groupSnapshot: ActionReader = (data, scope) => {
  const items = data.list("devlist");
  const targets = items.map((item, index) => {
    const members = new Members(item, `${data.at("devlist")}[${index}]`);
    const target = readSnapshotTarget(members, scope.device(members, "device"), scope);
    members.finish();
    return target;
  });
  if (targets.length === 0) throw misused(data.at("devlist"), "is empty");
  return [snapshotStep("snapshot-group", targets, false)];
};

function readSnapshotTarget(data: Members, device: string, { cwd }: Scope): SnapshotTarget {
  return { device, file: data.path("snapshot-file", cwd), format: data.optionalText("format") ?? "qcow2" };
}

function snapshotStep(
  kind: "snapshot" | "snapshot-group",
  targets: readonly SnapshotTarget[],
  reuse: boolean,
): Step {
  return { kind: "request", request: { kind, targets, relative: false, reuse, overlay: {} } };
}

const snapshotOfNode: ActionReader = (data, scope) => {
  const device = scope.device(data, "node");
  const name = scope.device(data, "overlay");
  return [{ kind: "overlay", device, overlay: { name, path: data.path("overlay", scope.cwd) } }];
};

/** `source` in F. Simoncelli's form, `new-image-file` in P. Bonzini's. */
const driveReopen: ActionReader = (data, scope) => {
  const device = scope.device(data, "device");
  if (data.has("source") === data.has("new-image-file")) {
    throw misused(data.place, "one of source and new-image-file names the image");
  }
  const file = data.path(data.has("source") ? "source" : "new-image-file", scope.cwd);
  return [reopenStep(device, file, data.optionalText("format"))];
};

const driveMigrate: ActionReader = (data, scope) => [
  {
    kind: "request",
    request: {
      kind: "migrate",
      device: scope.device(data, "device"),
      dest: data.path("dest", scope.cwd),
      destFormat: data.optionalText("dest-format") ?? "qcow2",
      newSource: data.path("new-source", scope.cwd),
      sourceFormat: data.optionalText("source-format") ?? "qcow2",
      relative: false,
    },
  },
];

const freeze: ActionReader = (data, scope) => [
  {
    kind: "request",
    request: { kind: "freeze", devices: [scope.device(data, "device")], strict: false },
  },
];

const unfreeze: ActionReader = (data, scope) => [
  {
    kind: "request",
    request: { kind: "unfreeze", devices: [scope.device(data, "device")], force: false },
  },
];

/** One request for each of the options; together they are one command, so all of them or none. */
const blockdevReopen: ActionReader = (data, scope) => {
  const all = data.list("options");
  if (all.length === 0) throw misused(data.at("options"), "is empty");
  return all.map((one, index) => {
    const options = new Members(one, `${data.at("options")}[${index}]`);
    const device = scope.device(options, "node-name");
    const format = options.choice("driver", ["qcow2", "raw"]);
    if (format === undefined) throw misused(options.at("driver"), "is missing");
    const file = readProtocolNode(options, scope);
    options.refuse("backing", "imgtx reopens an image with the chain that its header names");
    readOpening(options);
    options.finish();
    return reopenStep(device, file, format);
  });
};

/** The file below the format: an object, or dotted names as on QEMU's command line. */
function readProtocolNode(options: Members, scope: Scope): string {
  if (options.has("file.filename")) {
    options.choice("file.driver", ["file"]);
    return options.path("file.filename", scope.cwd);
  }
  if (typeof options.take("file") === "string") {
    throw refused(options.at("file"), "it names a node, and imgtx keeps no names of nodes", {
      hint: 'give the file itself: {"driver": "file", "filename": …}',
    });
  }
  const file = options.object("file");
  file.choice("driver", ["file"]);
  const path = file.path("filename", scope.cwd);
  scope.giveNode(file, "node-name");
  readOpening(file);
  file.finish();
  return path;
}

/** How a running process opens an image and treats its cache. The images are the same. */
function readOpening(options: Members): void {
  if (options.flag("read-only") === true) {
    throw refused(options.at("read-only"), "imgtx has no devices that are read-only", {
      hint: "freeze the device with blockdev-freeze",
    });
  }
  options.flag("auto-read-only");
  options.optionalText("discard");
  options.optionalText("detect-zeroes");
  options.optionalText("aio");
  if (!options.has("cache")) return;
  const cache = options.object("cache");
  cache.flag("direct");
  cache.flag("no-flush");
  cache.finish();
}

function reopenStep(device: string, file: string, format: string | undefined): Step {
  return { kind: "request", request: { kind: "reopen", device, file, format, force: false } };
}

/** As QEMU does: a name that is taken is refused. */
const snapshotInternal: ActionReader = (data, scope) => [
  {
    kind: "request",
    request: {
      kind: "internal-snapshot-create",
      devices: [scope.device(data, "device")],
      snapshot: data.name("name"),
    },
  },
];

export const ACTION_READERS: Readonly<Record<string, ActionReader>> = {
  "blockdev-snapshot-sync": snapshotSync,
  "blockdev-snapshot": snapshotOfNode,
  "blockdev-snapshot-internal-sync": snapshotInternal,
  "drive-backup": driveBackup,
  "blockdev-backup": blockdevBackup,
  ...BITMAP_READERS,
  "drive-mirror": driveMirror,
  "drive-reopen": driveReopen,
  "drive-migrate": driveMigrate,
  "blockdev-reopen": blockdevReopen,
  "blockdev-freeze": freeze,
  "blockdev-unfreeze": unfreeze,
};
