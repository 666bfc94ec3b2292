export { type JournalSnapshot, readJournals } from "./folder.ts";
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
  Statement,
  TableChange,
  TransactionState,
  WatchedImage,
} from "./records.ts";
export { beginRecordOf, stagingPath } from "./records.ts";
export { changesOf, heldDevices, isParked, lastSeen, liveStatements, type SeenImage } from "./queries.ts";
