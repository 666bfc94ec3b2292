import { describe, expect, test } from "vitest";
import { type HostileCase, runCase } from "./hostile-case.ts";
import { askQemu, findDisagreement, verdictOf } from "./hostile-judge.ts";
import { mutate } from "./hostile-mutation.ts";
import { judge } from "./hostile-operations.ts";
import { loadSubject, makeDisk } from "./hostile-subject.ts";
import { HostileFigures, runBatch } from "./hostile.ts";
import { oracle } from "../helpers/oracles.ts";

const CASES = 1500;
const SEED = 20_240_501;

describe("a hostile image", () => {
  test("gives bytes or a typed error, soon, and stays as it was", async () => {
    const figures = new HostileFigures();
    expect(await runBatch(SEED, CASES, figures)).toBeUndefined();
    expect(figures.cases).toBe(CASES);
    // Both ends were met, or the mutations miss what they aim at.
    expect(figures.lines().join("\n")).toMatch(/read: E_CORRUPT \d+, done \d+/);
  });
});

/** What the fuzzer found, shrunk. */
const FOUND: readonly (readonly [string, HostileCase])[] = [
  [
    "a snapshot's L1 table beyond 2^53",
    {
      subject: "snapshots.qcow2",
      mutations: [
        { kind: "word", region: "snapshot-table", index: 0, value: { of: "number", word: 2097152n } },
      ],
      commandLine: 2,
    },
  ],
  [
    "a snapshot table in the header, with an unaligned L1 table beyond 2^53",
    {
      subject: "cluster-512.qcow2",
      mutations: [{ kind: "field", field: "nbSnapshots", value: { of: "number", word: 1n } }],
      commandLine: 2,
    },
  ],
  [
    "a backing file name too long, inside the header",
    {
      subject: "cluster-512.qcow2",
      mutations: [
        { kind: "field", field: "backingFileSize", value: { of: "beyond", bytes: 0, flags: 0n } },
        { kind: "field", field: "backingFileOffset", value: { of: "number", word: 3n } },
      ],
      commandLine: 2,
    },
  ],
  [
    "a data file that no extension names",
    {
      subject: "data-file-raw.qcow2",
      mutations: [{ kind: "field", field: "backingFileOffset", value: { of: "number", word: 1n } }],
      commandLine: 2,
    },
  ],
  [
    "a bitmap for a disk of no size",
    {
      subject: "bitmaps.qcow2",
      mutations: [{ kind: "field", field: "size", value: { of: "number", word: 1n } }],
      commandLine: 2,
    },
  ],
  [
    "a data file's table that leads elsewhere",
    {
      subject: "data-file-raw.qcow2",
      mutations: [{ kind: "copy", region: "l2", source: 1, target: 0, words: 1 }],
      commandLine: 2,
    },
  ],
  [
    "an L1 table a cluster past the end, but for what a sector is longer",
    {
      subject: "refcount-1.qcow2",
      mutations: [{ kind: "truncate", eighths: 2, bytes: 2040 }],
      commandLine: 2,
    },
  ],
];

describe("what the fuzzer found", () => {
  test.each(FOUND)("is refused or judged: %s", async (_, found) => {
    const { ends } = await runCase(found);
    expect(ends.map(({ step }) => step)).toContain("command line");
  });

  const qemu = oracle("qemu-img");
  qemu.test("is counted as qemu-img check counts it", async () => {
    for (const [what, { subject: name, mutations }] of FOUND) {
      const subject = loadSubject(name);
      const image = mutate(subject.image, subject.structure, mutations);
      const ours = await judge(makeDisk(subject, image).storage).then(verdictOf, (error: unknown) => ({
        kind: "refused" as const,
        message: String(error),
      }));
      const theirs = await askQemu(subject, image);
      if (theirs === undefined) throw new Error(`${what}: qemu-img check gave no answer`);
      expect([what, findDisagreement(ours, theirs)]).toEqual([what, undefined]);
    }
  });
});
