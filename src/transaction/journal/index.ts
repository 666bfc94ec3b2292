export { Journal, type JournalSnapshot, listNames, readJournals, removeHalfMade } from "./journal.ts";
export type {
  BeginRecord,
  CommitRecord,
  ImagePatch,
  JournalRecord,
  NewFile,
  PlanRecord,
  PreparedFile,
  SeenImage,
  Statement,
  TableChange,
  TransactionState,
  WatchedImage,
} from "./records.ts";
export {
  beginRecordOf,
  changesOf,
  heldDevices,
  isParked,
  lastSeen,
  liveStatements,
  stagingPath,
} from "./records.ts";
