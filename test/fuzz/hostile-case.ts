// One hostile image: put through everything that reads, and held to the oracles. A typed error and nothing else;
// at most two seconds; the image as it was; nothing opened that an image must not lead to; nothing left open.

import * as fc from "fast-check";
import type { CheckResult } from "../../src/format/index.ts";
import { ImgtxError } from "../../src/errors/index.ts";
import { startEffort } from "../helpers/effort.ts";
import { type Mutation, mutate, mutations } from "./hostile-mutation.ts";
import { COMMAND_LINES, judge, READING_STEPS, runCommandLine } from "./hostile-operations.ts";
import { tryWriting } from "./hostile-writing.ts";
import { IMAGE_PATH, loadSubject, makeDisk, SECRET_PATH, type Subject, SUBJECTS } from "./hostile-subject.ts";
import type { MemoryDisk } from "./memory-storage.ts";

export interface HostileCase {
  /** Name of a subject. */
  readonly subject: string;
  readonly mutations: readonly Mutation[];
  /** Which command line it is put through besides; none after the last one. */
  readonly commandLine: number;
}

/** Of qemu-img: check has 0 to 3 and 63, compare 0 to 4. */
const STATUSES: readonly number[] = [0, 1, 2, 3, 4, 63];

const CASE_MS_MAX = 2000;
const READ_BYTES_MAX = 64 * 1024 * 1024;
const COMMAND_LINE_SHARE = 3;

export const hostileCases: fc.Arbitrary<HostileCase> = fc.record({
  subject: fc.constantFrom(...SUBJECTS.map(({ name }) => name)),
  mutations,
  commandLine: fc.nat(COMMAND_LINES.length * COMMAND_LINE_SHARE - 1),
});

/** What became of a case: figures, and never a failure, which is thrown. */
export interface CaseOutcome {
  /** For each step its name and the code it ended with, or "done". */
  readonly ends: readonly { readonly step: string; readonly code: string }[];
  readonly longestMs: number;
  readonly longestStep: string;
  readonly image: Buffer;
  /** Undefined where the check refused it. */
  readonly verdict: CheckResult | undefined;
  /** The image after imgtx wrote to it; undefined where it changed nothing. */
  readonly written: Buffer | undefined;
}

/** Names that would betray that an error was not foreseen, though it is an ImgtxError. */
const UNFORESEEN: readonly string[] = ["E_INTERNAL", "E_IO", "E_NO_SPACE", "E_FAILED", "E_USAGE"];

/** Throws where an oracle is broken. */
export async function runCase(each: HostileCase): Promise<CaseOutcome> {
  const subject = loadSubject(each.subject);
  const image = mutate(subject.image, subject.structure, each.mutations);
  const disk = makeDisk(subject, image);
  const trial = new Trial(disk);
  for (const step of READING_STEPS) await trial.run(step.name, () => step.run(disk.storage));
  let verdict: CheckResult | undefined;
  await trial.run("check", async () => {
    verdict = await judge(disk.storage);
  });
  const words = COMMAND_LINES[each.commandLine];
  if (words) await trial.run(`img ${words.join(" ")}`, () => tryCommandLine(disk, words));
  requireUntouched(disk, subject);
  // On a disk of its own, with a copy: what it leaves is no longer the image of the case.
  const writable = makeDisk(subject, Buffer.from(image));
  const writing = new Trial(writable);
  await writing.run("write", () => tryWriting(writable, verdict));
  const { changes, content } = writable.require(IMAGE_PATH);
  const written = changes > 0 ? content : undefined;
  trial.take(writing);
  return {
    ends: trial.ends,
    longestMs: trial.longestMs,
    longestStep: trial.longestStep,
    image,
    verdict,
    written,
  };
}

class Trial {
  readonly ends: { step: string; code: string }[] = [];
  longestMs = 0;
  longestStep = "";
  readonly #disk: MemoryDisk;

  constructor(disk: MemoryDisk) {
    this.#disk = disk;
  }

  take(other: Trial): void {
    this.ends.push(...other.ends);
    if (other.longestMs < this.longestMs) return;
    this.longestMs = other.longestMs;
    this.longestStep = other.longestStep;
  }

  async run(step: string, work: () => Promise<unknown>): Promise<void> {
    const { watch } = this.#disk;
    watch.opened.length = 0;
    const effort = startEffort();
    const code = await codeOf(step, work);
    const elapsedMs = effort();
    this.ends.push({ step: step.startsWith("img ") ? "command line" : step, code });
    if (elapsedMs > this.longestMs) {
      this.longestMs = elapsedMs;
      this.longestStep = step;
    }
    if (elapsedMs > CASE_MS_MAX) throw new Error(`${step} took ${Math.round(elapsedMs)} ms of the processor`);
    if (watch.longestReadBytes > READ_BYTES_MAX) {
      throw new Error(`${step} asked for ${watch.longestReadBytes} bytes at once`);
    }
    if (watch.openFiles !== 0) throw new Error(`${step} left ${watch.openFiles} files open`);
    // Opened to see whether it is an image, it must not have been taken for one.
    if (
      code === "done" &&
      watch.opened.includes(SECRET_PATH) &&
      !step.startsWith("img ") &&
      step !== "check"
    ) {
      throw new Error(`${step} was led to ${SECRET_PATH}`);
    }
  }
}

async function codeOf(step: string, work: () => Promise<unknown>): Promise<string> {
  try {
    await work();
    return "done";
  } catch (error) {
    if (error instanceof ImgtxError && !UNFORESEEN.includes(error.code)) return error.code;
    // A table may lead a writer so far out that the file would be larger than the disk.
    if (step === "write" && error instanceof ImgtxError && error.code === "E_NO_SPACE") return error.code;
    throw new Error(
      `${step}: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`,
      {
        cause: error,
      },
    );
  }
}

async function tryCommandLine(disk: MemoryDisk, words: readonly string[]): Promise<void> {
  const { status, stderr, stdout } = await runCommandLine(disk.storage, words);
  if (stderr.includes("bug in imgtx")) throw new Error(stderr.trim());
  if (!STATUSES.includes(status)) throw new Error(`exit status ${status}`);
  if (status !== 0 && stderr === "" && stdout === "")
    throw new Error(`exit status ${status}, and not a word`);
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u0008\u000b-\u001f\u007f]/u.test(stderr + stdout)) {
    throw new Error(
      `control characters in what is printed: ${JSON.stringify(stderr + stdout).slice(0, 500)}`,
    );
  }
}

function requireUntouched(disk: MemoryDisk, subject: Subject): void {
  for (const path of [IMAGE_PATH, "/fuzz/image/beside.raw", "/host/secret.raw"]) {
    if (disk.require(path).changes > 0) throw new Error(`${path} was changed`);
  }
  for (const name of subject.needs.keys()) {
    if (disk.require(`/fuzz/image/${name}`).changes > 0) throw new Error(`${name} was changed`);
  }
}
