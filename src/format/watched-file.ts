// A file some of whose calls are another's: to look at them, or to do something first.

import type { StorageFile } from "../storage/index.ts";

/** The same file, with these calls in the place of its own. */
export function withCalls(file: StorageFile, calls: Partial<StorageFile>): StorageFile {
  return new Proxy(file, {
    get(target, name) {
      const own: unknown = Reflect.get(calls, name);
      if (own !== undefined) return own;
      const member: unknown = Reflect.get(target, name, target);
      return typeof member === "function" ? (member.bind(target) as unknown) : member;
    },
  });
}
