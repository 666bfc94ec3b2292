// Functions of C libraries: koffi calls them on Node, the runtime's own bun:ffi in the single file. Nothing else in
// imgtx knows either.
//
// Invariant: loaded at the first call that needs it, never at start-up: koffi costs 6 ms.

import { createRequire } from "node:module";
import { loadBunForeign } from "./foreign-bun.ts";
import type { Foreign } from "./foreign-library.ts";
import { leaveUnflushed } from "./standard-outputs.ts";

export const IS_NODE = process.versions["bun"] === undefined;

let isLoaded = false;

export function loadForeign(): Foreign {
  if (!IS_NODE) return loadBunForeign();
  // createRequire: synchronous, and invisible to the bundler, which must leave the native module outside.
  const requireHere = createRequire(import.meta.url);
  const koffi = loadKoffi(requireHere);
  if (!isLoaded) {
    leaveUnflushed(koffi.load(null), () => {
      const threads = requireHere("node:worker_threads") as typeof import("node:worker_threads");
      return threads.isMainThread;
    });
  }
  isLoaded = true;
  return koffi;
}

/** What is missing where that throws, and how it is had. */
export const FOREIGN = IS_NODE
  ? {
      name: "koffi",
      hint: "imgtx changes nothing without locks, which it takes through koffi; install imgtx again with `npm install --include=optional`",
    }
  : {
      name: "the runtime's way to the C library",
      hint: "imgtx changes nothing without locks, which it takes by code that it makes as it runs: allow it that (`MemoryDenyWriteExecute=no` in a unit of systemd)",
    };

/**
 * koffi's native part by itself where it is known to lie beside koffi: finding it through koffi's own
 * loader, which looks for many platforms first, takes three times as long.
 */
function loadKoffi(requireHere: NodeJS.Require): Foreign {
  try {
    if (process.arch === "x64") {
      return requireHere("@koromix/koffi-linux-x64/linux_x64/koffi.node") as Foreign;
    }
    if (process.arch === "arm64") {
      return requireHere("@koromix/koffi-linux-arm64/linux_arm64/koffi.node") as Foreign;
    }
  } catch {
    // Another C library, or koffi installed in another way: its own loader knows, and says what is missing.
  }
  return requireHere("koffi") as typeof import("koffi") & Foreign;
}
