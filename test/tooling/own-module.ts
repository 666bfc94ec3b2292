// node:module as the single file has it: its runtime's way to the C library is there at once where the runtime sees what is
// asked for, and takes 0.25 ms more by name.

import * as real from "node:module";

export function createRequire(file: string): (name: string) => unknown {
  return (name) => (name === "bun:ffi" ? require("bun:ffi") : real.createRequire(file)(name));
}
