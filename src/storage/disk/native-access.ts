// How files and folders get at the system calls, which are loaded when one is first needed, and may be missing.

import { ImgtxError } from "../../errors/index.ts";
import type { StatAround } from "./file-stat.ts";
import { FOREIGN } from "../native/foreign.ts";
import { bootIdOrNothing } from "../process/node-host.ts";
import { type PlaceToAsk, UNKNOWN_PLACE } from "../native/place-calls.ts";
import type { SystemCalls } from "../native/system-calls.ts";

/** Gives the system calls; undefined, or an error for those who can't do without, where they can't be loaded. */
export interface NativeAccess {
  optional(): SystemCalls | undefined;
  required(attempt: string, path: string): SystemCalls;
}

export function makeNativeAccess(load: () => SystemCalls): NativeAccess {
  let calls: SystemCalls | undefined;
  let isTried = false;
  let failure: unknown;
  // Each look at a file asks it, and each lock.
  const optional = (): SystemCalls | undefined => {
    if (isTried) return calls;
    isTried = true;
    try {
      calls = load();
    } catch (error) {
      failure = error;
    }
    return calls;
  };
  return {
    optional,
    required(attempt, path) {
      const loaded = optional();
      if (loaded !== undefined) return loaded;
      const reason = failure instanceof Error ? failure.message.split("\n", 1)[0] : String(failure);
      throw new ImgtxError("E_UNSUPPORTED", `${attempt}: ${FOREIGN.name} could not be loaded (${reason})`, {
        image: path,
        hint: FOREIGN.hint,
        cause: failure,
      });
    },
  };
}

/** To be called right before the stat. */
export function aroundStat(place: PlaceToAsk, native: NativeAccess): StatAround {
  return {
    nowMs: Date.now(),
    findPlace: (device, inode) => native.optional()?.findPlace(place, device, inode) ?? UNKNOWN_PLACE,
    bootId: bootIdOrNothing,
  };
}
