export { Journal, type JournalSnapshot, listNames, readJournals, removeHalfMade } from "./journal.ts";
export type {
  BeginRecord,
  CommitRecord,
  ImagePatch,
  JournalRecord,
  NewFile,
  PlanRecord,
  PreparedFile,
  Statement,
  TableChange,
  TransactionState,
  WatchedImage,
} from "./records.ts";
export { beginRecordOf, stagingPath } from "./records.ts";
export { changesOf, heldDevices, isParked, lastSeen, liveStatements, type SeenImage } from "./queries.ts";
