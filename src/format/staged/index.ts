export { applyLog, renewApplied } from "./apply.ts";
export { findRedoLogsOn } from "./find-logs.ts";
export { type FenceBytes, type Guard, sectorsOfFence } from "./guard.ts";
export { isRedoLogName, RedoLog, redoLogName, removeRedoLog } from "./redo-log.ts";
export { endOfWrites, type SealedLog } from "./sealed-log.ts";
export { type ObserveFile, StagedStorage, type StagingOptions } from "./staged-storage.ts";
export { surveyImage } from "./survey.ts";
