// How a command of `imgtx img` waits for locks.

import type { LockWaiting } from "../../../storage/index.ts";
import type { ImgInvocation } from "../command.ts";

export function lockWaiting({ waitMs, signal, console }: ImgInvocation): LockWaiting {
  return { waitMs, signal, onWait: (what) => console.error(`waiting: ${what}`) };
}
