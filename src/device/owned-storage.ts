// root at work in the workspace of another user.
//
// Invariants
// - What root makes there, images beside the workspace included, gets that user's ownership. Else the user could not
//   go on: folders of root's in .imgtx, images that only root opens.
// - What is read, written or removed is what that user could read, write or remove. The table and the journals are
//   the user's, and name what the user likes: they are no orders to root.

import { posix } from "node:path";
import { ImgtxError } from "../errors/index.ts";
import { canChangeNames, canOpen } from "../format/index.ts";
import type { FileStat, Storage } from "../storage/index.ts";

type Owner = Pick<FileStat, "ownerId" | "groupId">;

export function ownedStorage(storage: Storage, root: string, { ownerId, groupId }: Owner): Storage {
  const { assertOpens, assertPlace } = rulesFor(storage, root, ownerId);
  return {
    ...storage,
    host: storage.host,
    async openFile(path, access, options) {
      await assertOpens(path, access);
      return await storage.openFile(path, access, options);
    },
    async createFile(path, mode) {
      await assertPlace(path);
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
      await assertPlace(path);
      await storage.makeFolder(path, mode);
      await storage.setOwner(path, ownerId, groupId);
    },
    async makeSymlink(target, path) {
      await assertPlace(path);
      await storage.makeSymlink(target, path);
      await storage.setOwner(path, ownerId, groupId);
    },
    async removeFile(path) {
      await assertPlace(path, "taken");
      await storage.removeFile(path);
    },
    async removeFolder(path) {
      await assertPlace(path, "taken");
      await storage.removeFolder(path);
    },
    async rename(source, target) {
      await assertPlace(source, "taken");
      // What stands at the target goes.
      await assertPlace(target, "taken");
      await storage.rename(source, target);
    },
    async renameWithoutReplacing(source, target) {
      await assertPlace(source, "taken");
      await assertPlace(target);
      await storage.renameWithoutReplacing(source, target);
    },
    async reserveSpace(folder, lengthBytes) {
      await assertPlace(`${folder}/x`);
      return await storage.reserveSpace(folder, lengthBytes);
    },
  };
}

/** E_NOT_OWNER each, where the owner of the workspace could not do it. */
interface Rules {
  readonly assertOpens: (path: string, access: "read" | "write") => Promise<void>;
  /** The name can be given, or (`taken`) taken away. */
  readonly assertPlace: (path: string, taken?: "taken") => Promise<void>;
}

function rulesFor(storage: Storage, root: string, ownerId: number): Rules {
  const ownImage = `${root}/x`;
  const refuse = (path: string): never => {
    const owner = storage.host.nameOfUser(ownerId);
    throw new ImgtxError("E_NOT_OWNER", `'${path}' is not for ${owner}, to whom the workspace belongs`, {
      image: path,
      hint: `give ${owner} the right to it, or keep the device in a workspace of your own`,
    });
  };
  return {
    async assertOpens(path, access) {
      const real = await storage.realPath(path);
      if ((await storage.statLink(real))?.ownerId === ownerId) return;
      if (!(await canOpen(storage, ownerId, real, { access, ownImage }))) refuse(path);
    },
    async assertPlace(path, taken) {
      const folder = posix.dirname(path);
      // What is not there says so itself.
      if (!(await storage.stat(folder))) return;
      const how = taken ? { taken: path, ownImage } : { ownImage };
      if (!(await canChangeNames(storage, ownerId, await storage.realPath(folder), how))) refuse(path);
    },
  };
}
