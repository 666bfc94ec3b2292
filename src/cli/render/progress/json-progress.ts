// `--progress json`: an object a line on stderr, each second and at the end.

import type { Output } from "../../context.ts";
import { withSchema } from "../json.ts";

const EVERY_MS = 1000;

export interface Teller {
  /** Tells at once. */
  tell(doneBytes: number, totalBytes: number): void;
  /** Tells where it is time to, or all is done. */
  update(doneBytes: number, totalBytes: number): void;
}

export function makeTeller(stderr: Pick<Output, "write">): Teller {
  let toldAt = performance.now();
  let told: string | undefined;
  const tell = (done: number, total: number): void => {
    toldAt = performance.now();
    told = `${done}/${total}`;
    stderr.write(`${JSON.stringify(withSchema({ progress: { done, total } }))}\n`);
  };
  return {
    tell,
    update(done, total) {
      const isDue = performance.now() - toldAt >= EVERY_MS || done >= total;
      if (isDue && told !== `${done}/${total}`) tell(done, total);
    },
  };
}
