// Storage on this machine's disk passes the conformance suite, also where the file system can do no more
// than POSIX asks for.

import { makeNodeStorage } from "../../src/storage/index.ts";
import { SystemCallError } from "../../src/storage/native-functions.ts";
import { loadSystemCalls } from "../../src/storage/system-calls.ts";
import { describeStorage } from "./conformance.ts";
import { makeScratchFolder } from "./scratch.ts";

describeStorage("the real disk", async () => ({ storage: makeNodeStorage(), root: makeScratchFolder() }));

const ENOSYS = 38;

function refuse(call: string): () => never {
  return () => {
    throw new SystemCallError(call, ENOSYS);
  };
}

describeStorage("the real disk with locks and nothing else beyond POSIX", async () => ({
  storage: makeNodeStorage({
    loadSystemCalls: () => ({
      ...loadSystemCalls(),
      copyFileRange: async () => refuse("copy_file_range")(),
      clone: async () => refuse("ioctl FICLONE")(),
      punchHole: refuse("fallocate"),
      renameWithoutReplacing: refuse("renameat2"),
    }),
  }),
  root: makeScratchFolder(),
}));
