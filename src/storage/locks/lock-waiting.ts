// Trying for a lock until it is there, the time is up, or the user has had enough.

import { ImgtxError } from "../../errors/index.ts";
import type { Host } from "../storage.ts";

export interface LockWaiting {
  /** How long to wait; 0 fails at once, Infinity waits for good. */
  readonly waitMs: number;
  /** Called once when a wait begins, with what it waits for: "the workspace, held by pid 12 (imgtx)". */
  readonly onWait: (what: string) => void;
  /** Ends the wait: with its reason where that is an ImgtxError, else with E_INTERRUPTED. */
  readonly signal?: AbortSignal | undefined;
}

/** Why an attempt failed. Asked for its words only when they are shown: naming holders reads all of /proc. */
export interface Refusal {
  /** Whether who stands in the way is about to go: that is no wait, however long a machine under load takes for it. */
  readonly isPassing?: boolean;
  /** What is waited for. */
  describe(): Promise<string>;
  toError(): Promise<ImgtxError>;
}

const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 500;
const PAUSE_GROWTH = 1.5;
/** On a machine under load the grace may be over before a second look: who asks for an instant was met in that alone. */
const TRIES_OF_GRACE = 4;
/** Only who was stopped at that very instant is there for longer. */
const LONGEST_PASSING_MS = 10_000;

/**
 * Repeats an attempt until it gives no refusal. For `graceMs`, and for some tries, that is not called a wait: for locks
 * that others take for an instant, to ask.
 */
export async function waitForLock(
  host: Host,
  waiting: LockWaiting,
  graceMs: number,
  attempt: () => Promise<Refusal | undefined>,
): Promise<void> {
  const started = host.monotonicMs();
  let pauseMs = Math.min(FIRST_PAUSE_MS, graceMs > 0 ? graceMs / 2 : FIRST_PAUSE_MS);
  let announced = false;
  for (let tries = 1; ; tries += 1) {
    const refusal = await attempt();
    if (refusal === undefined) return;
    const waitedMs = host.monotonicMs() - started;
    const isPassing = refusal.isPassing === true && waitedMs < LONGEST_PASSING_MS;
    const isGrace = isPassing || (graceMs > 0 && (waitedMs < graceMs || tries < TRIES_OF_GRACE));
    if (!isGrace && waitedMs >= waiting.waitMs) throw await refusal.toError();
    if (!announced && !isGrace) {
      announced = true;
      waiting.onWait(await refusal.describe());
    }
    throwIfAborted(waiting.signal);
    await host.sleep(pauseMs * jitter(host));
    throwIfAborted(waiting.signal);
    pauseMs = Math.min(pauseMs * PAUSE_GROWTH, LONGEST_PAUSE_MS);
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  const reason: unknown = signal.reason;
  throw reason instanceof ImgtxError
    ? reason
    : new ImgtxError("E_INTERRUPTED", "interrupted while waiting for a lock", { cause: reason });
}

/** Between a half and one: two processes that refused each other must not meet again. */
function jitter(host: Host): number {
  return 0.5 + Number.parseInt(host.randomName().slice(0, 4), 36) / (2 * 36 ** 4);
}
