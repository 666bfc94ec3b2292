export { type JournalSnapshot, readJournals, readParked } from "./folder.ts";
export { Journal } from "./journal.ts";
export { clearHalfMade, journalPath, listNames } from "./journal-file.ts";
export type {
  BeginRecord,
  CommitRecord,
  ImagePatch,
  JournalRecord,
  NamedFile,
  NewFile,
  PlannedFolder,
  PlanRecord,
  PreparedFile,
  PreparedRedo,
  Statement,
  TableChange,
  TransactionState,
  WatchedImage,
} from "./records.ts";
export { beginRecordOf, NOT_MADE_YET, redoLogNumber, redoLogPath, stagingPath } from "./records.ts";
export {
  changesOf,
  heldDevices,
  isParked,
  lastSeen,
  liveStatements,
  redoOf,
  type SeenImage,
} from "./queries.ts";
