// A storage that tells of its files what exFAT does by FUSE: inode numbers that each mount makes up, no birth times, one
// mode for all of them, and times that nobody relies on.

import type { FileStat, Storage, StorageFile } from "../../../src/storage/index.ts";

/** The files below the folder, as the given mount of their file system shows them. */
export function foreignDisk(inner: Storage, folder: string, mount: number): Storage {
  const isOn = (path: string): boolean => path.startsWith(`${folder}/`);
  const told = <S extends FileStat | undefined>(path: string, stat: S): S =>
    stat && isOn(path)
      ? {
          ...stat,
          inode: `${mount}${stat.inode}`,
          bornNs: "0",
          mode: 0o777,
          fileSystem: `7${mount}`,
          fileSystemId: "exfat:",
          mountId: `7${mount}`,
        }
      : stat;
  const tellingFile = (file: StorageFile): StorageFile =>
    new Proxy(file, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target);
        if (property === "stat") return async () => told(target.path, await target.stat());
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  return {
    ...inner,
    stat: async (path) => told(path, await inner.stat(path)),
    statLink: async (path) => told(path, await inner.statLink(path)),
    openFile: async (...args) => tellingFile(await inner.openFile(...args)),
    createFile: async (...args) => tellingFile(await inner.createFile(...args)),
    describeFileSystem: async (path) => {
      const traits = await inner.describeFileSystem(path);
      return isOn(path) ? { ...traits, keepsInodes: false, keepsModes: false } : traits;
    },
  };
}
