// drive-backup, blockdev-backup and drive-mirror: copies of a device.
//
// Each argument of QEMU 7.2 is honoured where it has a meaning for files at rest. One that only tunes a
// running job is accepted and has no effect; one whose loss would mislead is refused with the reason.
//
// A backup is a mirror that is forgotten in the same transaction: kept, it would be shown as one that lags, and the next
// `imgtx mirror` would overwrite it. So a device that has a mirror is not backed up.

import type { MirrorTarget } from "../../../transaction/index.ts";
import { type Members, misused, refused } from "./members.ts";
import type { ActionReader, Scope } from "./scope.ts";

const SYNCS = ["full", "top", "none", "incremental", "bitmap"] as const;
const MODES = ["absolute-paths", "existing"] as const;
const ON_ERROR = ["report", "ignore", "enospc", "stop", "auto"] as const;
const BITMAPS = "imgtx makes no copy by a bitmap of the caller's";

export const driveBackup: ActionReader = (data, scope) => {
  const device = scope.device(data, "device");
  const target: MirrorTarget = {
    ...newCopy(device),
    file: data.path("target", scope.cwd),
    format: data.optionalText("format"),
    reuse: readMode(data) === "existing",
    sync: readBackupSync(data),
    compressed: data.flag("compress") ?? false,
  };
  readBackupJob(data, scope);
  return [{ kind: "backup", target, into: undefined }];
};

/** The target is a node in QEMU, so it exists: here a device, or a file that is there. */
export const blockdevBackup: ActionReader = (data, scope) => {
  const device = scope.device(data, "device");
  const name = scope.device(data, "target");
  const target: MirrorTarget = {
    ...newCopy(device),
    reuse: true,
    sync: readBackupSync(data),
    compressed: data.flag("compress") ?? false,
  };
  readBackupJob(data, scope);
  return [{ kind: "backup", target, into: { name, path: data.path("target", scope.cwd) } }];
};

/** In QEMU's form, and in those of 2012: `dest` for `target`, and `full` before there was `sync`. */
export const driveMirror: ActionReader = (data, scope) => {
  const target: MirrorTarget = {
    ...newCopy(scope.device(data, "device")),
    file: data.path(data.has("dest") ? "dest" : "target", scope.cwd),
    format: data.optionalText("format"),
    reuse: readMode(data) === "existing",
    sync: readMirrorSync(data),
  };
  readJob(data);
  // About the bitmap and the buffers of a running job.
  data.count("granularity");
  data.count("buf-size");
  // When a guest's writes reach the copy. There is no guest.
  data.choice("copy-mode", ["background", "write-blocking"]);
  // Whether zeros are punched out of the target: it reads the same.
  data.flag("unmap");
  scope.giveNode(data, "node-name");
  data.refuse("replaces", "imgtx has no graph of nodes to replace one in", "use drive-reopen");
  return [{ kind: "copy", target }];
};

function newCopy(device: string): MirrorTarget {
  return {
    device,
    file: undefined,
    format: undefined,
    sync: "full",
    compressed: false,
    options: {},
    relative: false,
    reuse: false,
    bitmap: false,
    verify: false,
  };
}

function readMode(data: Members): (typeof MODES)[number] {
  return data.choice("mode", MODES) ?? "absolute-paths";
}

function readBackupSync(data: Members): "full" | "top" {
  const sync = readSync(data);
  if (sync === undefined) throw misused(data.at("sync"), "is missing");
  if (sync !== "none") return sync;
  // QEMU copies old data away before a guest overwrites it. Without a guest the target would be an overlay
  // of the device's own image, and change with it: no backup.
  throw refused(data.at("sync"), "'none' copies what a running guest overwrites, and there is no guest", {
    hint: "use full or top; an overlay that takes the writes from now on is blockdev-snapshot-sync",
  });
}

function readMirrorSync(data: Members): MirrorTarget["sync"] {
  if (data.has("sync") && data.has("full")) throw misused(data.at("full"), "stands beside sync");
  if (data.has("full")) return data.flag("full") === false ? "top" : "full";
  return readSync(data) ?? "full";
}

function readSync(data: Members): "full" | "top" | "none" | undefined {
  const sync = data.choice("sync", SYNCS);
  if (sync === "incremental" || sync === "bitmap") throw refused(data.at("sync"), `'${sync}': ${BITMAPS}`);
  return sync;
}

function readBackupJob(data: Members, scope: Scope): void {
  readJob(data);
  data.refuse("bitmap", BITMAPS);
  data.refuse("bitmap-mode", BITMAPS);
  scope.giveNode(data, "filter-node-name");
  if (!data.has("x-perf")) return;
  // How many requests a job has in the air, and how large they are.
  const tuning = data.object("x-perf");
  tuning.flag("use-copy-range");
  tuning.count("max-workers");
  tuning.count("max-chunk");
  tuning.finish();
}

function readJob(data: Members): void {
  // The name by which a job is asked for. When the answer comes there is none left.
  data.optionalText("job-id");
  data.flag("auto-dismiss");
  // A copy that is made at once is final at once: who wants to decide afterwards needs a transaction.
  if (data.flag("auto-finalize") === false) {
    throw refused(data.at("auto-finalize"), "a copy of imgtx does not wait to be finalized", {
      hint: "put it between blockdev-start-transaction and blockdev-commit-transaction",
    });
  }
  // A limit protects whoever shares the disk. To go past it silently would be the worst answer.
  if ((data.count("speed") ?? 0) !== 0) {
    throw refused(data.at("speed"), "a limit of its own is not held; that of the batch is", {
      hint: "leave it out, and name the limit with `imgtx txn run --rate-limit SIZE FILE`",
    });
  }
  readOnError(data, "on-source-error");
  readOnError(data, "on-target-error");
}

/** An error ends the copy and undoes it. All other policies leave a copy with holes, or stop a guest. */
function readOnError(data: Members, member: string): void {
  const policy = data.choice(member, ON_ERROR) ?? "report";
  if (policy !== "report") {
    throw refused(data.at(member), `'${policy}' would leave holes in the copy or needs a guest to stop`, {
      hint: "report is what imgtx does: an error undoes the whole transaction",
    });
  }
}
