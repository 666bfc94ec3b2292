import type { KnipConfig } from "knip";

// Without tests: finds what they alone use. What its own file uses may be exported for them.
const isProduction = process.argv.includes("--production");

const config: KnipConfig = {
  entry: [
    "src/cli/launch.ts!",
    "test/**/*.test.ts",
    "test/helpers/programs/*.ts",
    "test/tooling/{bench,build,build-binary,pack-fixtures,torture,warm-up}.ts",
  ],
  project: ["src/**/*.ts!", "test/**/*.ts", "test/**/*.mjs"],
  ignoreExportsUsedInFile: isProduction,
  ignoreBinaries: [
    "ansible-playbook",
    "qemu-img",
    "prlimit",
    "mkfifo",
    "qemu-io",
    "shellcheck",
    "strace",
    "mount",
    "umount",
    "setfacl",
    "unshare",
    "ldd",
    "lintian",
    "setsid",
    "fallocate",
  ],
};

export default config;
