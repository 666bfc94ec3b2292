// Opens the device of that name for writing, and says that it waits for locks on it, without any.

import { makeNodeStorage } from "../../../src/storage/index.ts";
import { WAITING_BYTE } from "../../../src/storage/kernel/holders.ts";

const [device = ""] = process.argv.slice(2);
const file = await makeNodeStorage().openFile(device, "write", { mayBeDevice: true });
file.lock({ start: WAITING_BYTE, lengthBytes: 1 }, "shared");
console.log("waiting");
process.stdin.resume();
