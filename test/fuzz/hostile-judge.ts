// qemu-img check as the judge of hostile images: what imgtx finds clean it must find clean, and where both judge
// an image they must count the same.
//
// A process takes as long as ten cases, so that only samples come here.

import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import type { CheckResult } from "../../src/format/index.ts";
import type { Subject } from "./hostile-subject.ts";

/** What a judge says of an image. */
export type Verdict =
  | {
      readonly kind: "counted";
      readonly corruptions: number;
      readonly leaks: number;
      readonly checkErrors: number;
    }
  | { readonly kind: "refused"; readonly message: string };

const TIME_LIMIT_MS = 600_000;

export function verdictOf({ corruptions, leaks, checkErrors }: CheckResult): Verdict {
  return { kind: "counted", corruptions, leaks, checkErrors };
}

/** What qemu-img check says; undefined where it is not there, took too long or died. */
export async function askQemu(subject: Subject, image: Buffer): Promise<Verdict | undefined> {
  const folder = mkdtempSync(`${tmpdir()}/imgtx-hostile-`);
  try {
    for (const [name, content] of subject.needs) writeFileSync(`${folder}/${name}`, content);
    writeFileSync(`${folder}/beside.raw`, Buffer.alloc(4096, "beside"));
    writeFileSync(`${folder}/image.qcow2`, image);
    return await check(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function check(folder: string): Promise<Verdict | undefined> {
  const words = ["check", "--output=json", "-f", "qcow2", "image.qcow2"];
  const printed = await new Promise<{ stdout: string; stderr: string } | undefined>((resolve) => {
    const options = { cwd: folder, timeout: TIME_LIMIT_MS, maxBuffer: 64 * 1024 * 1024 };
    execFile("qemu-img", words, options, (error, stdout, stderr) => {
      // Not a status where it was not there, or was killed.
      const hasEnded = error === null || typeof error.code === "number";
      resolve(hasEnded ? { stdout, stderr } : undefined);
    });
  });
  if (printed === undefined) return undefined;
  const { stdout, stderr } = printed;
  const start = stdout.indexOf("{\n");
  if (start < 0) return { kind: "refused", message: stderr.trim() };
  const counts = JSON.parse(stdout.slice(start)) as Record<string, number>;
  return {
    kind: "counted",
    corruptions: counts["corruptions"] ?? 0,
    leaks: counts["leaks"] ?? 0,
    checkErrors: counts["check-errors"] ?? 0,
  };
}

function isClean(verdict: Verdict): boolean {
  return verdict.kind === "counted" && verdict.corruptions + verdict.leaks + verdict.checkErrors === 0;
}

/** The image leads to what is not there for QEMU, or to a driver that imgtx has not: no matter of the image. */
const OF_SURROUNDINGS = /backing file|No such file|driver|connect/i;

/** In one sentence, what one says and the other doesn't; undefined where they agree as far as they must. */
export function findDisagreement(ours: Verdict, qemu: Verdict): string | undefined {
  if (ours.kind === "refused") return undefined;
  if (qemu.kind === "refused") {
    if (OF_SURROUNDINGS.test(qemu.message)) return undefined;
    return isClean(ours) ? `imgtx finds it clean, qemu-img says: ${qemu.message}` : undefined;
  }
  const same =
    ours.corruptions === qemu.corruptions &&
    ours.leaks === qemu.leaks &&
    ours.checkErrors === qemu.checkErrors;
  if (same) return undefined;
  const counts = ({ corruptions, leaks, checkErrors }: Verdict & { kind: "counted" }) =>
    `${corruptions} corruptions, ${leaks} leaks, ${checkErrors} check errors`;
  return `imgtx counts ${counts(ours)}; qemu-img ${counts(qemu)}`;
}

/** Samples cases for QEMU: one of many, and after a disagreement each, so that it can be shrunk. */
export class SamplingJudge {
  judged = 0;
  unanswered = 0;
  readonly #every: number;
  #count = 0;
  #disagreed = false;

  constructor(every: number) {
    this.#every = every;
  }

  /** After a batch. */
  calm(): void {
    this.#disagreed = false;
  }

  /** Throws where the two disagree. written: the image after imgtx wrote to it, where it did. */
  async judge(
    subject: Subject,
    {
      image,
      verdict,
      written,
    }: { image: Buffer; verdict: CheckResult | undefined; written: Buffer | undefined },
  ): Promise<void> {
    this.#count += 1;
    if (verdict === undefined || (this.#count % this.#every !== 0 && !this.#disagreed)) return;
    const ours = verdictOf(verdict);
    const qemu = await askQemu(subject, image);
    this.judged += 1;
    if (qemu === undefined) this.unanswered += 1;
    const difference = qemu && findDisagreement(ours, qemu);
    if (difference !== undefined) this.#fail(difference);
    if (written === undefined || !isClean(ours) || qemu?.kind !== "counted") return;
    const after = await askQemu(subject, written);
    if (after === undefined) return;
    const isSound = after.kind === "counted" && after.corruptions + after.checkErrors === 0;
    if (!isSound) this.#fail(`clean before, and after writing qemu-img says ${JSON.stringify(after)}`);
  }

  #fail(message: string): never {
    this.#disagreed = true;
    throw new Error(message);
  }
}
