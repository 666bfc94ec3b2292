// A storage to look through that stops at an interrupt. What is only looked at has nothing to roll back, so that it may stop
// anywhere; and much of what looks takes a failure for an answer, as it may be for one image of many. An interrupt is no
// failure: it passes all of that.
//
// Invariant: signals are let through. The calls that headers take end at once, and thousands of them in a row would keep this
// process from hearing of any.

import { setImmediate as letOthersRun } from "node:timers/promises";
import type { Storage } from "../../storage/index.ts";

const CALLS_IN_A_ROW = 64;

/** Each of its calls throws an AbortError, which is no ImgtxError, once the signal is aborted. Not for what is to be changed. */
export function stoppedBy(storage: Storage, signal: AbortSignal | undefined): Storage {
  if (signal === undefined) return storage;
  let calls = 0;
  return new Proxy(storage, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== "function") return value;
      const method = value.bind(target) as (...parameters: unknown[]) => unknown;
      return async (...parameters: unknown[]) => {
        calls += 1;
        if (calls % CALLS_IN_A_ROW === 0) await letOthersRun();
        if (signal.aborted) throw new DOMException("interrupted", "AbortError");
        return await method(...parameters);
      };
    },
  });
}
