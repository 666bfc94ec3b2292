export type { RangePair } from "./comparable-file.ts";
export { findCollector } from "./native/collector.ts";
export { loadDeflateUnpacker } from "./native/deflate.ts";
export { DEVICES, kindOfFileSystem, mayShareBlocks } from "./kernel/file-system.ts";
export { lockFile } from "./locks/file-lock.ts";
export { describeHolders, describeWriters } from "./kernel/holders.ts";
export { type LockWaiting, type Refusal, waitForLock } from "./locks/lock-waiting.ts";
export { makeNodeStorage } from "./disk/node-storage.ts";
export { placeholderOf } from "./disk/rename-without-replacing.ts";
export { acquireImageLocks } from "./locks/qemu-lock.ts";
export { ReusedBytes } from "./reused-bytes.ts";
export type {
  ByteRange,
  FileStat,
  FileSystemTraits,
  Holder,
  Space,
  Host,
  LeaseAnswer,
  LeaseBeside,
  LockKind,
  OpenOptions,
  Origin,
  ProcessMark,
  ProgramEnd,
  Reservation,
  Storage,
  StorageFile,
  WrittenFile,
} from "./storage.ts";
export { explainError } from "./system-error.ts";
export { Turnstile } from "./turnstile.ts";
export { loadZstd } from "./native/zstd.ts";
