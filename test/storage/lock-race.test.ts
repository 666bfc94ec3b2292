// Processes that want the same images at the same instant: one gets them all, the others are told.

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";
import { expect, onTestFinished, test } from "vitest";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { makeScratchFolder } from "./scratch.ts";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));
const ROUNDS = 8;
const RACERS = 4;

// On "go" takes the writer's locks of all images named on the command line; on "stop" gives them back.
const RACER = `
  import { createInterface } from "node:readline";
  import { acquireImageLocks, makeNodeStorage } from "./src/storage/index.ts";
  const storage = makeNodeStorage();
  const requests = [];
  for (const path of process.argv.slice(2)) {
    requests.push({ file: await storage.openFile(path, "write"), role: "writer" });
  }
  let locks;
  for await (const line of createInterface(process.stdin)) {
    if (line === "stop") {
      locks?.release();
      locks = undefined;
      console.log("stopped");
      continue;
    }
    try {
      locks = await acquireImageLocks(storage, requests, { waitMs: 0, onWait: () => undefined });
      console.log("won");
    } catch (error) {
      console.log(error.code);
    }
  }
`;

interface Racer {
  readonly child: ChildProcess;
  /** Sends a word and gives the answer. */
  readonly ask: (word: string) => Promise<string>;
}

function startRacer(program: string, images: readonly string[]): Racer {
  const child = spawn(process.execPath, [program, ...images], {
    env: { ...process.env, NODE_PATH: `${REPOSITORY}/node_modules` },
    stdio: ["pipe", "pipe", "inherit"],
  });
  onTestFinished(() => {
    child.kill();
  });
  const answers = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    child,
    async ask(word) {
      child.stdin.write(`${word}\n`);
      return String((await answers.next()).value);
    },
  };
}

test("of several processes that want the same images in any order, exactly one gets them each time", async () => {
  const folder = makeScratchFolder();
  const storage = makeNodeStorage();
  const images = ["a", "b", "c"].map((name) => `${folder}/${name}`);
  for (const image of images) await (await storage.createFile(image, 0o600)).close();
  const program = `${folder}/racer.mjs`;
  buildSync({
    stdin: { contents: RACER, resolveDir: REPOSITORY, loader: "ts" },
    bundle: true,
    format: "esm",
    platform: "node",
    external: ["koffi", "fs-extra"],
    outfile: program,
    logLevel: "error",
  });
  const racers = Array.from({ length: RACERS }, (_, index) =>
    startRacer(program, index % 2 === 0 ? images : images.toReversed()),
  );
  for (let round = 0; round < ROUNDS; round += 1) {
    const answers = await Promise.all(racers.map(({ ask }) => ask("go")));
    expect(answers.toSorted()).toEqual([...Array<string>(RACERS - 1).fill("E_LOCKED"), "won"]);
    expect(await Promise.all(racers.map(({ ask }) => ask("stop")))).toEqual(Array(RACERS).fill("stopped"));
  }
});
