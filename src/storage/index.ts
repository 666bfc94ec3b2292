export { describeHolders } from "./holders.ts";
export { makeNodeStorage } from "./node-storage.ts";
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
