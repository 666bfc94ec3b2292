// How far the copying of devices is: a bar on a terminal, a line for SIGUSR1, and a JSON object a line on request,
// which SIGUSR1 is then answered by too.
//
// Parts are added up as they begin: what is compared first is copied then, as far as it differs.

import { formatBytes } from "../../units/index.ts";
import type { CliContext } from "../context.ts";
import { startBar } from "./bar.ts";
import { withSchema } from "./json.ts";
import { printable } from "./printable.ts";

export interface CopyProgress {
  /** Of one part of the work, which is named. */
  update(part: string, doneBytes: number, totalBytes: number): void;
  stop(): void;
}

export interface CopyProgressOptions {
  /** An object each second was asked for. */
  readonly asJson: boolean;
  /** All else that is printed is JSON. */
  readonly json: boolean;
  readonly quiet: boolean;
}

const JSON_EVERY_MS = 1000;

export function startCopyProgress(
  context: Pick<CliContext, "stderr" | "env" | "onProgressRequest">,
  { asJson, json, quiet }: CopyProgressOptions,
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
  const tellAsJson = (): void => {
    stderr.write(`${JSON.stringify(withSchema({ progress: sum() }))}\n`);
  };
  const stopAnswering = context.onProgressRequest?.(() => {
    if (asJson || json) {
      tellAsJson();
      return;
    }
    bar?.clear();
    const { done, total } = sum();
    const names = [...parts].flatMap(([name, part]) => (part.done < part.total ? printable(name) : []));
    const what = names.length === 0 ? "" : `, ${names.join(", ")}`;
    stderr.write(`imgtx: ${formatBytes(done)} of ${formatBytes(total)} done${what}\n`);
  });
  return {
    update(part, done, total) {
      parts.set(part, { done, total });
      const all = sum();
      bar?.draw(all.done, all.total);
      if (!asJson || (performance.now() - toldAt < JSON_EVERY_MS && all.done < all.total)) return;
      toldAt = performance.now();
      tellAsJson();
    },
    stop() {
      stopAnswering?.();
      bar?.clear();
    },
  };
}
