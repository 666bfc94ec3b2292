export { applyLog, renewApplied } from "./apply.ts";
export { findRedoLogsOn } from "./find-logs.ts";
export type { RedoIdentity } from "./frames.ts";
export { chooseGuard, type FenceBytes, type Guard, sectorsOfFence } from "./guard.ts";
export type { LogEnd } from "./log-scan.ts";
export { isRedoLogName, RedoLog, redoLogName, removeRedoLog } from "./redo-log.ts";
export type { SealedLog } from "./sealed-log.ts";
export { type Savepoint, StagedStorage, type StagingOptions } from "./staged-storage.ts";
export { type Survey, surveyImage } from "./survey.ts";
