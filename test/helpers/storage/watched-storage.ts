// The real storage with an onlooker: every call is shown to it before it happens, and it may throw instead.
// It can also kill: from then on nothing works any more, and all files are closed with their locks, as
// when the process has gone.

import type { Storage, StorageFile } from "../../../src/storage/index.ts";

export interface Call {
  /** The method: "rename", or "file.flush" for one of an open file. */
  readonly name: string;
  /** The path that it is about; for two paths, the second. */
  readonly path: string;
  /** What a flush is for. */
  readonly purpose: string | undefined;
}

export type Onlooker = (call: Call, kill: () => never) => void;

/** What a killed process's calls throw. No code of imgtx may take it for a failure that it knows. */
export class Killed extends Error {
  override readonly name = "Killed";
}

export interface WatchedStorage extends Storage {
  /** Files that are open through it now. */
  readonly openFiles: ReadonlySet<StorageFile>;
}

/** Looks only, and kills nothing. */
export function watchStorage(storage: Storage, look: Onlooker): WatchedStorage {
  const openFiles = new Set<StorageFile>();
  let dead = false;
  const kill = (): never => {
    dead = true;
    for (const file of openFiles) void file.close();
    openFiles.clear();
    throw new Killed("killed");
  };
  const show = (name: string, path: string, purpose: string | undefined) => {
    if (dead) throw new Killed("killed before");
    look({ name, path, purpose }, kill);
  };

  // What a call gets of files is the storage's own.
  const behind = new Map<unknown, StorageFile>();
  const watchFile = (file: StorageFile): StorageFile => {
    openFiles.add(file);
    const seen = new Proxy(file, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target);
        if (typeof value !== "function") return value;
        const method = value.bind(target) as (...parameters: unknown[]) => unknown;
        return (...parameters: unknown[]) => {
          if (property === "close") {
            openFiles.delete(file);
            return method();
          }
          const purpose = property === "flush" ? String(parameters[0]) : undefined;
          show(`file.${String(property)}`, target.path, purpose);
          return method(...parameters.map((one) => behind.get(one) ?? one));
        };
      },
    });
    behind.set(seen, file);
    return seen;
  };

  const watched = new Proxy(storage, {
    get(target, property) {
      if (property === "openFiles") return openFiles;
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== "function") return value;
      // It touches no disk, and nobody waits for it: a failure would be met by nobody.
      if (property === "expectFlushes") return value.bind(target) as unknown;
      const method = value.bind(target) as (...parameters: unknown[]) => Promise<unknown>;
      // A hint: no call of the system, and nothing that could fail or be waited for.
      if (property === "expectFlushes") return method;
      return async (...parameters: unknown[]) => {
        const paths = parameters.filter((one): one is string => typeof one === "string");
        const isFlush = property === "flushFolder";
        // A link may have a third, which says the same.
        const path = (isFlush ? paths[0] : property === "makeSymlink" ? paths[1] : paths.at(-1)) ?? "";
        show(
          String(property),
          property === "openFile" ? (paths[0] ?? "") : path,
          isFlush ? paths[1] : undefined,
        );
        const result = await method(...parameters);
        return property === "openFile" || property === "createFile"
          ? watchFile(result as StorageFile)
          : result;
      };
    },
  });
  return watched as WatchedStorage;
}

/**
 * Kills the process at the first call that matches, before the call happens. What it wrote down of itself is of a process
 * that has gone, as it is for any other process that recovers: this one lives on.
 */
export function killAt(storage: Storage, matches: (call: Call) => boolean): WatchedStorage {
  return watchStorage(asMortal(storage), (call, kill) => {
    if (matches(call)) kill();
  });
}

/** This process, as one that had its number since the host's start. */
function asMortal(storage: Storage): Storage {
  const host = new Proxy(storage.host, {
    get: (target, property) =>
      property === "process" ? { ...target.process, started: "0" } : Reflect.get(target, property, target),
  });
  return new Proxy(storage, {
    get: (target, property) => (property === "host" ? host : Reflect.get(target, property, target)),
  });
}

/** Fails every call that matches with the error, as a disk does. */
export function failAt(storage: Storage, matches: (call: Call) => boolean, error: Error): WatchedStorage {
  return watchStorage(storage, (call) => {
    if (matches(call)) throw error;
  });
}

/** The one rename by which `devices` shows another generation. */
export function isShowing({ name, path }: Pick<Call, "name" | "path">): boolean {
  return name === "rename" && /\/devices$|\/view\/\d+\.now$/.test(path);
}
