// Processes that want the same images at the same instant: one gets them all, the others are told.

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { expect, onTestFinished, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { sourceProgram } from "../../helpers/source-program.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const ROUNDS = 8;
const RACERS = 4;

interface Racer {
  readonly child: ChildProcess;
  /** Sends a word and gives the answer. */
  readonly ask: (word: string) => Promise<string>;
}

function startRacer(images: readonly string[]): Racer {
  const words = [...sourceProgram("race-for-locks"), ...images];
  const child = spawn(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] });
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
  const folder = makeFolder();
  const storage = makeNodeStorage();
  const images = ["a", "b", "c"].map((name) => `${folder}/${name}`);
  for (const image of images) await (await storage.createFile(image, 0o600)).close();
  const racers = Array.from({ length: RACERS }, (_, index) =>
    startRacer(index % 2 === 0 ? images : images.toReversed()),
  );
  for (let round = 0; round < ROUNDS; round += 1) {
    const answers = await Promise.all(racers.map(({ ask }) => ask("go")));
    expect(answers.toSorted()).toEqual([...Array<string>(RACERS - 1).fill("E_LOCKED"), "won"]);
    expect(await Promise.all(racers.map(({ ask }) => ask("stop")))).toEqual(Array(RACERS).fill("stopped"));
  }
});
