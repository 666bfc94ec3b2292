// Redo logs beside an image that are about it: of transactions that are to change it, in whatever workspace.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import type { FileStat, Storage } from "../../storage/index.ts";
import { LogScan } from "./log-scan.ts";
import { LOG_NAME } from "./redo-log.ts";

/** Their paths. A log that can't be read is left out: it is not the caller's. */
export async function findRedoLogsOn(storage: Storage, image: string, stat: FileStat): Promise<string[]> {
  const folder = posix.dirname(image);
  const names = (await storage.readFolder(folder)).filter((name) => LOG_NAME.test(name));
  const found: string[] = [];
  for (const name of names) {
    const path = posix.join(folder, name);
    if (await isAbout(storage, path, stat)) found.push(path);
  }
  return found;
}

async function isAbout(storage: Storage, path: string, stat: FileStat): Promise<boolean> {
  try {
    const file = await storage.openFile(path, "read", { refuseSymlink: true });
    try {
      const { identity } = (await new LogScan(file, (await file.stat()).sizeBytes).readHeader()).header;
      return (
        identity.inode === stat.inode &&
        identity.bornNs === stat.bornNs &&
        identity.fileSystemId === stat.fileSystemId
      );
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof ImgtxError && error.code !== "E_INTERNAL") return false;
    throw error;
  }
}
