export type {
  ByteRange,
  FileStat,
  Holder,
  Host,
  LockKind,
  OpenOptions,
  Storage,
  StorageFile,
} from "./storage.ts";
