// How far copies of devices are: a bar on a terminal, a line for SIGUSR1, and a JSON object a line on request.

import { formatBytes } from "../../units/index.ts";
import type { CliContext } from "../context.ts";
import { startBar } from "./bar.ts";
import { withSchema } from "./json.ts";

export interface CopyProgress {
  /** Of one of the devices that are copied side by side, in bytes of data. */
  update(device: string, doneBytes: number, totalBytes: number): void;
  stop(): void;
}

const JSON_EVERY_MS = 1000;

export function startCopyProgress(
  context: Pick<CliContext, "stderr" | "env" | "onProgressRequest">,
  { asJson, quiet }: { readonly asJson: boolean; readonly quiet: boolean },
): CopyProgress {
  const { stderr } = context;
  const parts = new Map<string, { readonly done: number; readonly total: number }>();
  const bar = asJson || quiet ? undefined : startBar(context);
  let toldAt = performance.now();
  const sum = (): { done: number; total: number } => {
    let [done, total] = [0, 0];
    for (const part of parts.values()) {
      done += part.done;
      total += part.total;
    }
    return { done, total };
  };
  const stopAnswering = context.onProgressRequest?.(() => {
    bar?.clear();
    const { done, total } = sum();
    const far =
      parts.size === 0 ? "nothing copied yet" : `${formatBytes(done)} of ${formatBytes(total)} copied`;
    stderr.write(`imgtx: ${far}\n`);
  });
  return {
    update(device, done, total) {
      parts.set(device, { done, total });
      const all = sum();
      bar?.draw(all.done, all.total);
      if (!asJson || (performance.now() - toldAt < JSON_EVERY_MS && all.done < all.total)) return;
      toldAt = performance.now();
      stderr.write(`${JSON.stringify(withSchema({ progress: { done: all.done, total: all.total } }))}\n`);
    },
    stop() {
      stopAnswering?.();
      bar?.clear();
    },
  };
}
