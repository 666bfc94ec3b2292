import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** The rigs take longest: begun first, they don't keep one worker alone at the end. */
class RigsFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const isRig = ({ moduleId }: TestSpecification): boolean => /\/test\/(crash|fuzz|walk)\//.test(moduleId);
    return [...sorted.filter(isRig), ...sorted.filter((file) => !isRig(file))];
  }
}

// Oracle and process tests start real programs: as many workers as cores, and never more. What a test does is
// bounded by counts; the limit of time is against hangs alone, and no machine is so slow as to meet it.
const HANGS_MS = 15 * 60_000;

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: HANGS_MS,
    hookTimeout: HANGS_MS,
    maxWorkers: availableParallelism(),
    sequence: { sequencer: RigsFirst },
    setupFiles: [],
  },
});
