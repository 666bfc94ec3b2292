// Looks at the first file, is refused a lock on the second, and prints what it saw as JSON.

import { ImgtxError } from "../../../src/errors/index.ts";
import { lockFile, makeNodeStorage } from "../../../src/storage/index.ts";

const storage = makeNodeStorage();
const [, , seen = "", locked = ""] = process.argv;
const { inode, bornNs } = (await storage.stat(seen)) ?? {};
const [one, other] = [await storage.openFile(locked, "write"), await storage.openFile(locked, "write")];
const range = { start: 0, lengthBytes: 1 };
one.lock(range, "exclusive");
console.log(JSON.stringify({ inode, bornNs, code: await refusal(), bootId: typeof storage.host.bootId }));

async function refusal(): Promise<string | undefined> {
  try {
    await lockFile(storage, other, range, { waitMs: 0, onWait: () => undefined }, "it");
    return undefined;
  } catch (error) {
    if (error instanceof ImgtxError) return error.code;
    throw error;
  }
}
