// Every command, with the one line that says what it is for. The commands themselves are loaded one by
// one, when they are called: loading them all would cost more than most of them take.

import { IMG_TABLE } from "../img/table.ts";
import type { Section } from "./command-groups.ts";
import type { Command } from "./definition.ts";

export interface CommandRow {
  /** `["txn", "begin"]` */
  readonly path: readonly string[];
  readonly summary: string;
  /** Under which heading `imgtx --help` lists it; hidden commands have none. */
  readonly section: Section | "hidden";
  readonly load: () => Promise<Command>;
}

export const COMMAND_TABLE: readonly CommandRow[] = [
  {
    path: ["init"],
    summary: "make a workspace",
    section: "Workspace and devices",
    load: async () => (await import("../commands/init.ts")).init,
  },
  {
    path: ["device", "add"],
    summary: "give an image a device name",
    section: "Workspace and devices",
    load: async () => (await import("../commands/device-add.ts")).deviceAdd,
  },
  {
    path: ["device", "remove"],
    summary: "forget a device; its images stay",
    section: "Workspace and devices",
    load: async () => (await import("../commands/device-remove.ts")).deviceRemove,
  },
  {
    path: ["device", "rename"],
    summary: "give a device another name",
    section: "Workspace and devices",
    load: async () => (await import("../commands/device-rename.ts")).deviceRename,
  },
  {
    path: ["device", "trust"],
    summary: "let a device's images lead to a folder",
    section: "Workspace and devices",
    load: async () => (await import("../commands/device-trust.ts")).deviceTrust,
  },
  {
    path: ["device", "provision"],
    summary: "say what makes volumes for a device",
    section: "Workspace and devices",
    load: async () => (await import("../commands/device-provision.ts")).deviceProvision,
  },
  {
    path: ["device", "list"],
    summary: "list the devices",
    section: "Workspace and devices",
    load: async () => (await import("../commands/device-list.ts")).deviceList,
  },
  {
    path: ["device", "show"],
    summary: "show a device and its chain",
    section: "Workspace and devices",
    load: async () => (await import("../commands/device-show.ts")).deviceShow,
  },
  {
    path: ["status"],
    summary: "one screen: devices, snapshots, space, and what is wrong",
    section: "Workspace and devices",
    load: async () => (await import("../commands/status.ts")).status,
  },
  {
    path: ["tree"],
    summary: "draw all images as one tree",
    section: "Workspace and devices",
    load: async () => (await import("../commands/tree.ts")).tree,
  },
  {
    path: ["doctor"],
    summary: "find what is wrong with images, or will be, and what mends it",
    section: "Workspace and devices",
    load: async () => (await import("../commands/doctor.ts")).doctor,
  },
  {
    path: ["report"],
    summary: "write a page about the workspace: images, allocation, history, findings",
    section: "Workspace and devices",
    load: async () => (await import("../commands/report.ts")).report,
  },
  {
    path: ["snapshot"],
    summary: "put a new overlay on top of a device",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/snapshot.ts")).snapshot,
  },
  {
    path: ["snapshot-group"],
    summary: "snapshot several devices at one instant",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/snapshot-group.ts")).snapshotGroup,
  },
  {
    path: ["snapshot-list"],
    summary: "list the snapshots",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/snapshot-list.ts")).snapshotList,
  },
  {
    path: ["snapshot-show"],
    summary: "show what a snapshot keeps",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/snapshot-show.ts")).snapshotShow,
  },
  {
    path: ["reopen"],
    summary: "point a device to another image",
    section: "Changes to devices",
    load: async () => (await import("../commands/reopen.ts")).reopen,
  },
  {
    path: ["mirror"],
    summary: "copy devices, and keep the copies in sync",
    section: "Changes to devices",
    load: async () => (await import("../commands/mirror.ts")).mirror,
  },
  {
    path: ["migrate"],
    summary: "begin to move a device's chain to another place",
    section: "Changes to devices",
    load: async () => (await import("../commands/migrate.ts")).migrate,
  },
  {
    path: ["freeze"],
    summary: "make devices hold still, or while a command runs",
    section: "Changes to devices",
    load: async () => (await import("../commands/freeze.ts")).freeze,
  },
  {
    path: ["unfreeze"],
    summary: "let frozen devices go on",
    section: "Changes to devices",
    load: async () => (await import("../commands/unfreeze.ts")).unfreeze,
  },
  {
    path: ["resize"],
    summary: "make a device's disk larger or smaller",
    section: "Changes to devices",
    load: async () => (await import("../commands/resize.ts")).resize,
  },
  {
    path: ["merge"],
    summary: "merge overlays of devices into images below them",
    section: "Changes to devices",
    load: async () => (await import("../commands/merge.ts")).merge,
  },
  {
    path: ["pull"],
    summary: "bring what lies below up into devices' active layers",
    section: "Changes to devices",
    load: async () => (await import("../commands/pull.ts")).pull,
  },
  {
    path: ["rebase"],
    summary: "put a device's active layer on another backing image",
    section: "Changes to devices",
    load: async () => (await import("../commands/rebase.ts")).rebase,
  },
  {
    path: ["internal-snapshot", "create"],
    summary: "keep the content of devices inside their images",
    section: "Changes to devices",
    load: async () => (await import("../commands/internal-snapshot.ts")).internalSnapshotCreate,
  },
  {
    path: ["internal-snapshot", "apply"],
    summary: "go back to an internal snapshot",
    section: "Changes to devices",
    load: async () => (await import("../commands/internal-snapshot.ts")).internalSnapshotApply,
  },
  {
    path: ["internal-snapshot", "delete"],
    summary: "take an internal snapshot away",
    section: "Changes to devices",
    load: async () => (await import("../commands/internal-snapshot.ts")).internalSnapshotDelete,
  },
  {
    path: ["internal-snapshot", "list"],
    summary: "list the internal snapshots of devices",
    section: "Changes to devices",
    load: async () => (await import("../commands/internal-snapshot.ts")).internalSnapshotList,
  },
  {
    path: ["bitmap", "add"],
    summary: "give devices a bitmap of what is written",
    section: "Changes to devices",
    load: async () => (await import("../commands/bitmap.ts")).bitmapAdd,
  },
  {
    path: ["bitmap", "remove"],
    summary: "take a bitmap away",
    section: "Changes to devices",
    load: async () => (await import("../commands/bitmap.ts")).bitmapRemove,
  },
  {
    path: ["bitmap", "clear"],
    summary: "take the marks out of a bitmap",
    section: "Changes to devices",
    load: async () => (await import("../commands/bitmap.ts")).bitmapClear,
  },
  {
    path: ["bitmap", "enable"],
    summary: "have QEMU mark what is written",
    section: "Changes to devices",
    load: async () => (await import("../commands/bitmap.ts")).bitmapEnable,
  },
  {
    path: ["bitmap", "disable"],
    summary: "leave a bitmap as it is",
    section: "Changes to devices",
    load: async () => (await import("../commands/bitmap.ts")).bitmapDisable,
  },
  {
    path: ["bitmap", "merge"],
    summary: "add the marks of other bitmaps to one",
    section: "Changes to devices",
    load: async () => (await import("../commands/bitmap.ts")).bitmapMerge,
  },
  {
    path: ["amend"],
    summary: "give images of devices other properties",
    section: "Changes to devices",
    load: async () => (await import("../commands/amend.ts")).amend,
  },
  {
    path: ["repair"],
    summary: "set refcounts in images of devices right",
    section: "Changes to devices",
    load: async () => (await import("../commands/repair.ts")).repair,
  },
  {
    path: ["relocate"],
    summary: "move devices, or a workspace, to another folder, with their snapshots",
    section: "Changes to devices",
    load: async () => (await import("../commands/relocate.ts")).relocate,
  },
  {
    path: ["rollback"],
    summary: "go back to a snapshot",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/rollback.ts")).rollback,
  },
  {
    path: ["snapshot-delete"],
    summary: "take moments away, and keep all others",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/snapshot-delete.ts")).snapshotDelete,
  },
  {
    path: ["undo"],
    summary: "take back what the last commit did",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/undo.ts")).undo,
  },
  {
    path: ["redo"],
    summary: "do again what was taken back",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/undo.ts")).redo,
  },
  {
    path: ["refuse"],
    summary: "always refuse",
    section: "hidden",
    load: async () => (await import("../commands/refuse.ts")).refuse,
  },
  {
    path: ["prune"],
    summary: "take snapshots away by a policy",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/prune.ts")).prune,
  },
  {
    path: ["gc"],
    summary: "remove what imgtx made and nothing needs any more",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/gc.ts")).gc,
  },
  {
    path: ["txn", "begin"],
    summary: "open a transaction",
    section: "Transactions",
    load: async () => (await import("../commands/txn-begin.ts")).txnBegin,
  },
  {
    path: ["txn", "commit"],
    summary: "make a transaction take effect",
    section: "Transactions",
    load: async () => (await import("../commands/txn-commit.ts")).txnCommit,
  },
  {
    path: ["txn", "abort"],
    summary: "undo a transaction",
    section: "Transactions",
    load: async () => (await import("../commands/txn-abort.ts")).txnAbort,
  },
  {
    path: ["txn", "status"],
    summary: "show the open transactions",
    section: "Transactions",
    load: async () => (await import("../commands/txn-status.ts")).txnStatus,
  },
  {
    path: ["txn", "list"],
    summary: "list the open transactions, a line each",
    section: "Transactions",
    load: async () => (await import("../commands/txn-list.ts")).txnList,
  },
  {
    path: ["txn", "show"],
    summary: "show one transaction",
    section: "Transactions",
    load: async () => (await import("../commands/txn-show.ts")).txnShow,
  },
  {
    path: ["txn", "exec"],
    summary: "run a command in a transaction",
    section: "Transactions",
    load: async () => (await import("../commands/txn-exec.ts")).txnExec,
  },
  {
    path: ["txn", "run"],
    summary: "run a batch of actions in one transaction",
    section: "Transactions",
    load: async () => (await import("../commands/txn-run.ts")).txnRun,
  },
  {
    path: ["txn", "savepoint"],
    summary: "mark a place to come back to",
    section: "Transactions",
    load: async () => (await import("../commands/txn-savepoint.ts")).txnSavepoint,
  },
  {
    path: ["txn", "rollback-to"],
    summary: "undo what came after a savepoint",
    section: "Transactions",
    load: async () => (await import("../commands/txn-rollback-to.ts")).txnRollbackTo,
  },
  ...IMG_TABLE.map(({ verb, summary, load }) => ({
    path: ["img", verb],
    summary,
    section: "Images" as const,
    load,
  })),
  {
    path: ["history"],
    summary: "list what was done with the devices",
    section: "Snapshots and the way back",
    load: async () => (await import("../commands/history.ts")).history,
  },
  {
    path: ["recover"],
    summary: "finish or undo what a crash left, and nothing else",
    section: "More",
    load: async () => (await import("../commands/recover.ts")).recover,
  },
  {
    path: ["completion", "bash"],
    summary: "print the completion for bash",
    section: "More",
    load: async () => (await import("../commands/completion.ts")).completionBash,
  },
  {
    path: ["completion", "zsh"],
    summary: "print the completion for zsh",
    section: "More",
    load: async () => (await import("../commands/completion.ts")).completionZsh,
  },
  {
    path: ["completion", "fish"],
    summary: "print the completion for fish",
    section: "More",
    load: async () => (await import("../commands/completion.ts")).completionFish,
  },
  {
    path: ["help"],
    summary: "explain a command",
    section: "More",
    load: async () => (await import("../commands/help.ts")).help,
  },
];

export function findRow(path: readonly string[]): CommandRow | undefined {
  const wanted = path.join(" ");
  return COMMAND_TABLE.find((row) => row.path.join(" ") === wanted);
}
