// root at work in the workspace of another user: what it makes there, images beside the workspace included, gets
// that user's ownership. Else the user could not go on: folders of root's in .imgtx, images that only root opens.

import type { FileStat, Storage } from "../storage/index.ts";

export function ownedStorage(
  storage: Storage,
  { ownerId, groupId }: Pick<FileStat, "ownerId" | "groupId">,
): Storage {
  return {
    ...storage,
    host: storage.host,
    async createFile(path, mode) {
      const file = await storage.createFile(path, mode);
      try {
        await file.setAccess({ ownerId, groupId, mode: (await file.stat()).mode });
        return file;
      } catch (error) {
        await file.close();
        throw error;
      }
    },
    async makeFolder(path, mode) {
      await storage.makeFolder(path, mode);
      await storage.setOwner(path, ownerId, groupId);
    },
    async makeSymlink(target, path) {
      await storage.makeSymlink(target, path);
      await storage.setOwner(path, ownerId, groupId);
    },
  };
}
