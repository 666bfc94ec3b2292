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
} from "./table/data-shape.ts";
export type {
  ChainEntry,
  DeviceEntry,
  FenceEntry,
  FrozenEntry,
  MirrorEntry,
  MirrorSync,
  Renaming,
  SeenFile,
} from "./table/device-entry.ts";
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
} from "./table/device-entry.ts";
export { isChain, isDeviceEntry, isFingerprint, isImageFormat, isRenaming } from "./table/entry-shape.ts";
export type { DeviceTable } from "./table/device-table.ts";
export type { Operation, OperationAction } from "./table/operation.ts";
export { findAppliedOnce } from "./history/applied-once.ts";
export {
  assertDeviceName,
  findDevice,
  requireDevice,
  isProvisioned,
  standsOnDevices,
  trustedBy,
  withDevices,
  withFingerprints,
  withTrusted,
} from "./table/device-table.ts";
export {
  discardNextGeneration,
  keepGeneration,
  moveToGeneration,
  renewGeneration,
  replaceTable,
  stageGeneration,
  writeNextGeneration,
} from "./next-generation.ts";
export { findInherited, unlessGone } from "./history/inherited.ts";
export {
  type DeviceOnFile,
  findDeviceOnFile,
  findUserElsewhere,
  isAnyElsewhere,
} from "./history/device-on-file.ts";
export { describeWorker, findLiveness, isWorker, sayWorker, type Worker } from "./lock/liveness.ts";
export { findOwner, lockOwner } from "./lock/owner-lock.ts";
export {
  assertFolder,
  assertOutsideOwnFolder,
  canonicalPath,
  canonicalPathsOf,
  fromStoredPath,
  isBelow,
  toStoredPath,
} from "./table/stored-path.ts";
export { isViewPresent, showView } from "./view/view.ts";
export { assertShown, planView, RoomForNames } from "./view/view-plan.ts";
export {
  type HistoryReads,
  listHistory,
  listStoredGenerations,
  readGeneration,
  readingHistory,
} from "./history/history.ts";
export { type DeviceMove, readCommit } from "./history/history-log.ts";
export { findWorkspace, isWorkspaceMade, workspaceAt, isNoWorkspace } from "./workspace/find-workspace.ts";
export { isMarkedFile, type FileMark, isFileMark, markOf } from "./table/file-mark.ts";
export { findLostParts, makeLostParts, type Part } from "./workspace/lost-parts.ts";
export { findLostHooks, type HookRecord, keepHookRecord, removeHookRecord } from "./hook-records.ts";
export { makeFolderBeside, makeWorkspace } from "./make-workspace.ts";
export { assertRoomFor, endMoveHere, moveWorkspace } from "./moving.ts";
export { unmakeWorkspace } from "./unmake-workspace.ts";
export {
  keepVolumeRecord,
  listVolumeRecords,
  provisionerOf,
  readVolumeRecord,
  removeVolumeRecord,
} from "./volume-records.ts";
export { assertOwn, describeCopy, howToAdopt } from "./lock/standing.ts";
export { fileBesidePath, type FileBeside, isFileBeside } from "./table/files-beside.ts";
export { readTable } from "./history/present-table.ts";
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
} from "./table/snapshot-record.ts";
export {
  givenUpByNames,
  movesNothing,
  nameAt,
  readByNames,
  refByNames,
  renamed,
  renamesTowards,
  snapshotByNames,
  withRenames,
} from "./table/renames.ts";
export {
  type GivenUp,
  type TakenThen,
  withGivenUp,
  withLooksOfMade,
  withoutSeals,
  withRenewed,
  withSealsOf,
} from "./table/seals.ts";
export { readingSnapshots, requireSnapshot, type SnapshotReads, withSnapshot } from "./history/snapshots.ts";
export type { Workspace } from "./workspace/workspace.ts";
export { flushTableName, pathsOf, readMovedAway } from "./workspace/workspace.ts";
export type { WorkspaceLock } from "./lock/held-locks.ts";
export {
  insideWorkspaceLock,
  lockAsItIs,
  lockWorkspace,
  lockWorkspaceIfFree,
  underWorkspaceLock,
} from "./lock/workspace-lock.ts";
export { areClaimsNeeded, isClaimName, removeClaim } from "./lock/claims.ts";
export { setFirstSignpost, setSignpost } from "./workspace/signposts.ts";
export { gateOf } from "./workspace/workspace-gate.ts";
export { assertMayRun } from "./workspace/ownership.ts";
