import { accessSync, constants, statfsSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** What takes longest, longest first: begun at the end, it would keep one worker alone. */
const LONGEST = [
  "crash/simulated/simulated.test.ts",
  "walk/walk.test.ts",
  "crash/simulated/simulated-faults.test.ts",
  "crash/judges/guests.test.ts",
  "crash/scenarios/resumed-copy.test.ts",
  "crash/real/real-process.test.ts",
  "format/qcow2/change/bitmaps-oracle.test.ts",
  "transaction/engine/failing-disk.test.ts",
  "crash/judges/away.test.ts",
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rankOf = ({ moduleId }: TestSpecification): number => {
      const rank = LONGEST.findIndex((name) => moduleId.endsWith(`/test/${name}`));
      if (rank >= 0) return rank;
      // The other rigs, and what starts a program of QEMU for each of its judgements.
      return LONGEST.length + (/\/test\/(crash|fuzz)\/|oracle/.test(moduleId) ? 0 : 1);
    };
    return (await super.sort(files)).toSorted((one, other) => rankOf(one) - rankOf(other));
  }
}

/** A file system in memory, where there is one with room: most of what a flush of a disk costs is not what is tested. */
function findMemoryDisk(): string | undefined {
  const folder = "/dev/shm";
  const [TMPFS, ROOM_BYTES] = [0x0102_1994, 4 * 2 ** 30];
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    const { type, bsize, bavail } = statfsSync(folder);
    return type === TMPFS && bsize * bavail >= ROOM_BYTES ? folder : undefined;
  } catch {
    return undefined;
  }
}
const memory = findMemoryDisk();
if (memory !== undefined) {
  process.env["IMGTX_TEST_DISK"] ??= tmpdir();
  process.env["TMPDIR"] = memory;
}

// What a test compares word for word is the same wherever it runs; those about time zones set their own.
process.env["TZ"] = "UTC";

// Oracle and process tests start real programs, and wait for them: one worker more than cores has those busy meanwhile.
// What a test does is bounded by counts; the limit of time is against hangs alone, and no machine is so slow as to meet it.
const WORKERS = availableParallelism() + 1;
const HANGS_MS = 15 * 60_000;

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // What only the single file does: `npm run test:binary`.
    exclude: process.env["IMGTX_BIN"] ? [] : ["test/binary/**"],
    testTimeout: HANGS_MS,
    hookTimeout: HANGS_MS,
    maxWorkers: WORKERS,
    // What is loaded stays loaded for the next file: no test leaves anything else behind in its process.
    isolate: false,
    // Node loads the modules itself, as it does under torture: Vitest's own runner took a fifth to a third of the
    // processor time of what runs in-process. No test replaces a module.
    execArgv: ["--import", new URL("test/tooling/typescript.mjs", import.meta.url).pathname],
    experimental: { viteModuleRunner: false, nodeLoader: false },
    sequence: { sequencer: LongestFirst },
    setupFiles: ["test/helpers/after-each-file.ts"],
  },
});
