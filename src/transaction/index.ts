export { traitsOf } from "./actions/index.ts";
export { type Examination, examine, type GuestDisk } from "./doctor/examine.ts";
export type { Finding, Weight } from "./doctor/findings.ts";
export { type Mended, mendFindings } from "./doctor/mend.ts";
export { type Move, relocateWorkspace } from "./move-workspace.ts";
export { adoptWorkspace } from "./recover/adopt.ts";
export { hasNoSavepoint, NO_TRANSACTION, requireTransaction, TO_SHOW, toUseSavepoint } from "./choose.ts";
export { describeDevices, listDeviceNames } from "./describe/describe.ts";
export { listGenerations } from "./describe/describe-history.ts";
export { listKept, listSnapshots, nameSnapshots, showSnapshot } from "./describe/describe-snapshots.ts";
export { describeTree, type TreeDescription, type TreeImage } from "./describe/tree.ts";
export { type Allocation, measureAllocation } from "./report/allocation.ts";
export { assertWritable, writeNewFile } from "./report/new-file.ts";
export { promiseHook } from "./hooks.ts";
export { describeStatus, type StatusDescription, withHolders } from "./describe/status.ts";
export { closeImageSession, IMAGE_DEVICE, openImageSession } from "./engine/image-session.ts";
export { collectGarbage } from "./recover/garbage.ts";
export { settleBeside } from "./recover/beside.ts";
export { type DeviceSnapshots, listInternalSnapshots } from "./describe/internal-snapshots.ts";
export { planPrune, type PruneDecision, type PrunePlan } from "./prune.ts";
export { type CountedRule, isEmptyPolicy, parseDuration, type RetentionPolicy } from "./retention.ts";
export { type HoldOptions, holdDevices } from "./engine/hold.ts";
export type * from "./describe/repair-results.ts";
export type * from "./requests/request.ts";
export type * from "./requests/way-back-requests.ts";
export type * from "./requests/device-requests.ts";
export type * from "./describe/results.ts";
export { restoreWorkspace } from "./recover/restore.ts";
export {
  abortTransaction,
  assertChangeable,
  beginTransaction,
  commitTransaction,
  findTransaction,
  initWorkspace,
  listTransactions,
  makeSavepoint,
  openSession,
  rollbackToSavepoint,
  runActions,
  type SessionOptions,
} from "./session.ts";
export { forceAbort, forceCommit, giveUp } from "./recover/ways-out.ts";
