export {
  type JournalFolder,
  type JournalSnapshot,
  parkedAmong,
  readJournal,
  readJournalFolder,
  readJournals,
  readNamedJournals,
} from "./folder.ts";
export { areReports } from "./record-shape.ts";
export { Journal } from "./journal.ts";
export { clearHalfMade, journalPath } from "./journal-file.ts";
export type { CopyStep, UpStep, LateStep, NewBacking } from "./copy-steps.ts";
export type { PlannedSnapshot, PlannedStanding } from "./planned-snapshot.ts";
export type { PlannedVolume } from "./planned-volume.ts";
export type {
  BeginRecord,
  CommitFence,
  CommitRecord,
  JournalRecord,
  NamedFile,
  NewFile,
  PlannedFolder,
  PlannedReport,
  PlanRecord,
  PreparedFile,
  PreparedRedo,
  Statement,
  StoredFence,
  TableChange,
  TransactionState,
  WatchedImage,
} from "./records.ts";
export { fenceBytesOf, isStoredFence, storeFence } from "./stored-fence.ts";
export { ALL_COPIED, beginRecordOf, NOT_MADE_YET, redoLogPath, stagingPath } from "./records.ts";
export {
  changesByStatement,
  changesOf,
  type Copy,
  copiesOf,
  fencesToRaise,
  filesMade,
  filesRemoved,
  volumesFilled,
  givenUpBy,
  heldDevices,
  isParked,
  joinCopies,
  lastSeen,
  lateLogsOf,
  logsOf,
  liveStatements,
  renamesOf,
  redoOf,
  type SeenImage,
  withLooksOf,
  withSettled,
} from "./queries.ts";
