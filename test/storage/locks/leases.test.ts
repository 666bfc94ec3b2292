// Who opens a file for writing while this process has a lease on it waits, and shows. Played by another process
// where that waits for good: this one would wait for itself. imgtx's own way to open files waits for a while only.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { expect, onTestFinished, test } from "vitest";
import { makeNodeStorage, type StorageFile } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const OPEN = `
  const fs = require("node:fs");
  fs.writeSync(1, "opening\\n");
  fs.openSync(process.argv[1], "r+");
  fs.writeSync(1, "open\\n");
  setInterval(() => {}, 1000);
`;

/** A process that opens the file for writing. `said` gives its next word. */
function startWriter(path: string): { said: () => Promise<string> } {
  const child = spawn(process.execPath, ["-e", OPEN, path], { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  const words: string[] = [];
  child.stdout.on("data", (bytes: Buffer) => words.push(...bytes.toString().trim().split("\n")));
  return {
    async said() {
      while (words.length === 0) await once(child.stdout, "data");
      return words.shift() ?? "";
    },
  };
}

async function untilWanted(file: StorageFile): Promise<void> {
  while (!file.isLeaseWanted()) {
    await new Promise((resume) => {
      setTimeout(resume, 5);
    });
  }
}

test("who opens a leased file for writing waits until the lease is given back, and is seen", async () => {
  const path = `${makeFolder()}/a`;
  writeFileSync(path, "x");
  const file = await makeNodeStorage().openFile(path, "read");
  expect(file.takeLease()).toBe("held");
  const writer = startWriter(path);
  expect(await writer.said()).toBe("opening");
  await untilWanted(file);
  file.dropLease();
  expect(await writer.said()).toBe("open");
  expect(file.takeLease()).toBe("writers");
  await file.close();
});

test("a lease that somebody waits for kills nobody, and ends with its file", async () => {
  const path = `${makeFolder()}/a`;
  writeFileSync(path, "x");
  const file = await makeNodeStorage().openFile(path, "read");
  expect(file.takeLease()).toBe("held");
  const writer = startWriter(path);
  await untilWanted(file);
  await file.close();
  expect(await writer.said()).toBe("opening");
  expect(await writer.said()).toBe("open");
});

test("a file that somebody has a lease on is opened when it is given back", async () => {
  const path = `${makeFolder()}/a`;
  writeFileSync(path, "x");
  const storage = makeNodeStorage();
  const leased = await storage.openFile(path, "read");
  expect(leased.takeLease()).toBe("held");
  const opening = storage.openFile(path, "write");
  // Asked for by the attempt itself.
  expect(leased.isLeaseWanted()).toBe(true);
  leased.dropLease();
  await (await opening).close();
  await leased.close();
});

test("a lease that is not given back is told as one, with what to do", async () => {
  const path = `${makeFolder()}/a`;
  writeFileSync(path, "x");
  const storage = makeNodeStorage();
  const leased = await storage.openFile(path, "read");
  leased.takeLease();
  const failure = await failureOf(async () => await storage.openFile(path, "write"));
  expect(failure).toMatchObject({ code: "E_BUSY", exitCode: 10, image: path });
  expect(failure.message).toContain("a lease");
  expect(failure.hint).toContain("again in a minute");
  await leased.close();
}, 20_000);
