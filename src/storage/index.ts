export { findCollector } from "./collector.ts";
export { loadDeflateUnpacker } from "./deflate.ts";
export { DEVICES, kindOfFileSystem, mayShareBlocks } from "./file-system.ts";
export { lockFile } from "./file-lock.ts";
export { describeHolders, describeWriters } from "./holders.ts";
export { type LockWaiting, type Refusal, waitForLock } from "./lock-waiting.ts";
export { makeNodeStorage } from "./node-storage.ts";
export { placeholderOf } from "./rename-without-replacing.ts";
export { acquireImageLocks } from "./qemu-lock.ts";
export { ReusedBytes } from "./reused-bytes.ts";
export type {
  ByteRange,
  FileStat,
  FileSystemTraits,
  Holder,
  Space,
  Host,
  LeaseAnswer,
  LockKind,
  OpenOptions,
  Origin,
  ProcessMark,
  ProgramEnd,
  Reservation,
  Storage,
  StorageFile,
} from "./storage.ts";
export { Turnstile } from "./turnstile.ts";
export { loadZstd } from "./zstd.ts";
