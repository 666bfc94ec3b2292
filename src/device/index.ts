export {
  isCount,
  isFlag,
  isObject,
  isText,
  listOf,
  objectOf,
  oneOf,
  orAbsent,
  orNull,
  parseJson,
  type Shape,
} from "./data-shape.ts";
export type {
  ChainEntry,
  DeviceEntry,
  FenceEntry,
  FrozenEntry,
  MirrorEntry,
  MirrorSync,
  SeenFile,
} from "./device-entry.ts";
export {
  fenceToRaise,
  filesOfDevice,
  filesOfEntry,
  isSameImage,
  isRaised,
  mapEntryPaths,
  mapImagePaths,
  mapProgram,
  withLooks,
} from "./device-entry.ts";
export { isChain, isDeviceEntry, isFingerprint, isImageFormat } from "./entry-shape.ts";
export type { DeviceTable } from "./device-table.ts";
export type { Operation, OperationAction } from "./operation.ts";
export { findAppliedOnce } from "./applied-once.ts";
export {
  assertDeviceName,
  findDevice,
  movesNothing,
  requireDevice,
  isProvisioned,
  standsOnDevices,
  trustedBy,
  withDevices,
  withFingerprints,
  withTrusted,
} from "./device-table.ts";
export {
  discardNextGeneration,
  keepGeneration,
  moveToGeneration,
  renewGeneration,
  replaceTable,
  stageGeneration,
  writeNextGeneration,
} from "./next-generation.ts";
export { findInherited, unlessGone } from "./inherited.ts";
export { type DeviceOnFile, findDeviceOnFile, findUserElsewhere } from "./device-on-file.ts";
export { describeWorker, findLiveness, isWorker, sayWorker, type Worker } from "./liveness.ts";
export { findOwner, lockOwner } from "./owner-lock.ts";
export { canonicalPath, fromStoredPath, isBelow, toStoredPath } from "./stored-path.ts";
export { isViewPresent, showView } from "./view.ts";
export { assertShown, planView, RoomForNames } from "./view-plan.ts";
export {
  type HistoryReads,
  listHistory,
  listStoredGenerations,
  readGeneration,
  readingHistory,
} from "./history.ts";
export { type DeviceMove, readCommit } from "./history-log.ts";
export { findWorkspace, isWorkspaceMade, workspaceAt, isNoWorkspace } from "./find-workspace.ts";
export { isMarkedFile, type FileMark, isFileMark, markOf } from "./file-mark.ts";
export { findLostParts, makeLostParts, type Part } from "./lost-parts.ts";
export { findLostHooks, type HookRecord, keepHookRecord, removeHookRecord } from "./hook-records.ts";
export { makeFolderBeside, makeWorkspace } from "./make-workspace.ts";
export { assertRoomFor, endMoveHere, moveWorkspace } from "./moving.ts";
export { unmakeWorkspace } from "./unmake-workspace.ts";
export { assertOwn, describeCopy, howToAdopt } from "./standing.ts";
export { fileBesidePath, type FileBeside, isFileBeside } from "./files-beside.ts";
export { readTable } from "./present-table.ts";
export {
  assertSnapshotName,
  filesOfSnapshot,
  isSnapshot,
  isSnapshotRef,
  mapSnapshotPaths,
  type SealedDevice,
  sealDevice,
  type Snapshot,
  type SnapshotRef,
} from "./snapshot-record.ts";
export {
  givenUpByNames,
  isRenaming,
  nameAt,
  readByNames,
  refByNames,
  renamed,
  renamesTowards,
  type Renaming,
  snapshotByNames,
  withRenames,
} from "./renames.ts";
export {
  type GivenUp,
  type TakenThen,
  withGivenUp,
  withLooksOfMade,
  withoutSeals,
  withRenewed,
  withSealsOf,
} from "./seals.ts";
export { readingSnapshots, requireSnapshot, type SnapshotReads, withSnapshot } from "./snapshots.ts";
export type { Workspace } from "./workspace.ts";
export { flushTableName, pathsOf, readMovedAway } from "./workspace.ts";
export type { WorkspaceLock } from "./held-locks.ts";
export {
  insideWorkspaceLock,
  lockAsItIs,
  lockWorkspace,
  lockWorkspaceIfFree,
  underWorkspaceLock,
} from "./workspace-lock.ts";
export { areClaimsNeeded, isClaimName, removeClaim } from "./claims.ts";
export { gateOf } from "./workspace-gate.ts";
export { assertMayRun } from "./ownership.ts";
