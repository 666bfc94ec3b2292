// On "go" takes the writer's locks of all images named on the command line, and says "won" or why not; on "stop"
// gives them back.

import { createInterface } from "node:readline";
import { ImgtxError } from "../../../src/errors/index.ts";
import { acquireImageLocks, makeNodeStorage } from "../../../src/storage/index.ts";

const storage = makeNodeStorage();
const requests = await Promise.all(
  process.argv
    .slice(2)
    .map(async (path) => ({ file: await storage.openFile(path, "write"), role: "writer" as const })),
);
let release: (() => void) | undefined;

for await (const line of createInterface(process.stdin)) {
  console.log(line === "go" ? await take() : giveBack());
}

async function take(): Promise<string> {
  try {
    const locks = await acquireImageLocks(storage, requests, { waitMs: 0, onWait: () => undefined });
    release = () => locks.release();
    return "won";
  } catch (error) {
    if (error instanceof ImgtxError) return error.code;
    throw error;
  }
}

function giveBack(): string {
  release?.();
  release = undefined;
  return "stopped";
}
