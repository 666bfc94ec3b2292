// Calls of Node's thread pool, as promises.

import { fsync, read, write } from "node:fs";
import { promisify } from "node:util";

export const readInPool = promisify(read);
export const writeInPool = promisify(write);
export const fsyncInPool = promisify(fsync);
