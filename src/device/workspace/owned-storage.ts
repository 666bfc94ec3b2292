// root at work in the workspace of another user.
//
// Invariants
// - What root makes there, images beside the workspace included, gets that user's ownership. Else the user could not
//   go on: folders of root's in .imgtx, images that only root opens.
// - What is read, written or removed is what that user could read, write or remove. The table and the journals are
//   the user's, and name what the user likes: they are no orders to root. What is judged here by names may be another
//   file a moment later, by a link that the user puts in the way: so the call itself is made with the user's rights.

import { posix } from "node:path";
import { elseClosed, ImgtxError } from "../../errors/index.ts";
import { canChangeNames, canOpen } from "../../format/index.ts";
import type { FileStat, OpenOptions, Storage } from "../../storage/index.ts";

type Owner = Pick<FileStat, "ownerId" | "groupId">;

export function ownedStorage(storage: Storage, root: string, owner: Owner): Storage {
  const rules = rulesFor(storage, root, owner.ownerId);
  const hands = handsOf(storage, root, owner);
  return {
    ...storage,
    host: storage.host,
    ...makersFor(storage, owner, rules, hands),
    ...moversFor(storage, rules, hands),
    async openFile(path, access, options) {
      await rules.assertOpens(path, access);
      return await storage.openFile(path, access, { ...options, ...(await hands.opener()) });
    },
    async setAttribute(path, name, value) {
      await rules.assertOpens(path, "write");
      return await hands.use(async () => await storage.setAttribute(path, name, value));
    },
    async reserveSpace(folder, lengthBytes, written) {
      if (lengthBytes > 0) await rules.assertPlace(`${folder}/x`);
      return await hands.use(async () => await storage.reserveSpace(folder, lengthBytes, written));
    },
  };
}

function makersFor(
  storage: Storage,
  owner: Owner,
  { assertPlace }: Rules,
  hands: Hands,
): Pick<Storage, "createFile" | "makeFolder" | "makeSymlink"> {
  return {
    async createFile(path, mode) {
      await assertPlace(path);
      return await elseClosed(
        await hands.use(async () => await storage.createFile(path, mode)),
        async (file) => {
          await file.setAccess({ ...owner, mode: (await file.stat()).mode });
          return file;
        },
      );
    },
    async makeFolder(path, mode) {
      await assertPlace(path);
      await hands.use(async () => {
        await storage.makeFolder(path, mode);
      });
      await hands.handOver(path);
    },
    // Never a second name of what is there: whoever put another file in its way meanwhile would be given that.
    async makeSymlink(target, path) {
      await assertPlace(path);
      await hands.use(async () => {
        await storage.makeSymlink(target, path);
      });
      await hands.handOver(path);
    },
  };
}

function moversFor(
  storage: Storage,
  { assertPlace }: Rules,
  hands: Hands,
): Pick<Storage, "removeFile" | "removeFolder" | "rename" | "renameWithoutReplacing"> {
  return {
    async removeFile(path) {
      await assertPlace(path, "taken");
      await hands.use(async () => {
        await storage.removeFile(path);
      });
    },
    async removeFolder(path, options) {
      await assertPlace(path, "taken");
      if (options?.onlyEmpty) {
        await hands.use(async () => {
          await storage.removeFolder(path, options);
        });
        return;
      }
      await removeTree(storage, path, async (emptied) => {
        await hands.use(async () => {
          await storage.removeFolder(emptied, { onlyFlat: true });
        });
      });
    },
    async rename(source, target) {
      await assertPlace(source, "taken");
      // What stands at the target goes.
      await assertPlace(target, "taken");
      await hands.use(async () => {
        await storage.rename(source, target);
      });
    },
    async renameWithoutReplacing(source, target) {
      await assertPlace(source, "taken");
      await assertPlace(target);
      await hands.use(async () => {
        await storage.renameWithoutReplacing(source, target);
      });
    },
  };
}

/** Folder by folder, since a call that acts for the owner waits for nothing in between. */
async function removeTree(
  storage: Storage,
  path: string,
  removeFlat: (path: string) => Promise<void>,
): Promise<void> {
  const kind = async (at: string): Promise<FileStat["kind"] | undefined> =>
    (await storage.statLink(at))?.kind;
  for (const name of (await kind(path)) === "folder" ? await storage.readFolder(path) : []) {
    const below = `${path}/${name}`;
    if ((await kind(below)) === "folder") await removeTree(storage, below, removeFlat);
  }
  await removeFlat(path);
}

/** How what root does for the owner is done with the owner's rights. */
interface Hands {
  readonly use: <T>(call: () => Promise<T>) => Promise<T>;
  readonly opener: () => Promise<Pick<OpenOptions, "as">>;
  /** Gives to the owner what was made with root's own. */
  readonly handOver: (path: string) => Promise<void>;
}

function handsOf(storage: Storage, root: string, { ownerId, groupId }: Owner): Hands {
  const { actAs } = storage.host;
  const act = async <T>(call: () => Promise<T>): Promise<T> => await (actAs ?? callIt)(ownerId, call);
  let known: Promise<boolean> | undefined;
  // Where root alone gets to the workspace, whoever put it there lets the owner in, and the kernel would not.
  const can = async (): Promise<boolean> => {
    known ??= act(async () => await storage.stat(`${root}/.`)).then(
      () => actAs !== undefined,
      () => false,
    );
    return await known;
  };
  return {
    use: async (call) => ((await can()) ? await act(call) : await call()),
    opener: async () => ((await can()) ? { as: ownerId } : {}),
    async handOver(path) {
      if (!(await can())) await storage.setOwner(path, ownerId, groupId);
    },
  };
}

function callIt<T>(_userId: number, call: () => T): T {
  return call();
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
