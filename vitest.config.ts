import { defineConfig } from "vitest/config";

// Oracle and process tests start real programs: a long timeout, and never more workers than cores.
export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    setupFiles: [],
  },
});
