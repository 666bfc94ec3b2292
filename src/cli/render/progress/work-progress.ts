// How far long work is, such as the copying of devices: a bar on a terminal, a line for SIGUSR1, and a JSON object a
// line on request, which SIGUSR1 is then answered by too.
//
// A command that has no such work is answered for in general, as the process does it by itself. Parts are added up as they begin: what is compared first is copied then, as far as it differs.

import { formatBytes } from "../../../units/index.ts";
import type { CliContext } from "../../context.ts";
import { startBar } from "./bar.ts";
import { makeTeller } from "./json-progress.ts";
import { printable } from "../printable.ts";

export interface WorkProgress {
  /** Of one part of the work, which is named. */
  readonly update: (part: string, doneBytes: number, totalBytes: number) => void;
  /** Takes away what is drawn, until the next update. */
  readonly clear: () => void;
  readonly stop: () => void;
}

export interface WorkProgressOptions {
  /** An object each second was asked for. */
  readonly asJson: boolean;
  /** All else that is printed is JSON. */
  readonly json: boolean;
  readonly quiet: boolean;
}

export function startWorkProgress(
  context: Pick<CliContext, "stderr" | "env" | "onProgressRequest">,
  { asJson, json, quiet }: WorkProgressOptions,
): WorkProgress {
  const { stderr } = context;
  const parts = new Map<string, { readonly done: number; readonly total: number }>();
  const bar = asJson || quiet ? undefined : startBar(context);
  const teller = makeTeller(stderr);
  const sum = (): { done: number; total: number } => {
    let [done, total] = [0, 0];
    for (const part of parts.values()) {
      done += part.done;
      total += part.total;
    }
    return { done, total };
  };
  const answer = (): void => {
    const { done, total } = sum();
    if (asJson || json) {
      teller.tell(done, total);
      return;
    }
    bar?.clear();
    const names = [...parts].flatMap(([name, part]) => (part.done < part.total ? printable(name) : []));
    const what = names.length === 0 ? "" : `, ${names.join(", ")}`;
    stderr.write(`imgtx: ${formatBytes(done)} of ${formatBytes(total)} done${what}\n`);
  };
  let stopAnswering = asJson || json ? context.onProgressRequest?.(answer) : undefined;
  return {
    update(part, done, total) {
      stopAnswering ??= context.onProgressRequest?.(answer);
      parts.set(part, { done, total });
      const all = sum();
      bar?.draw(all.done, all.total);
      if (asJson) teller.update(all.done, all.total);
    },
    clear() {
      bar?.clear();
    },
    stop() {
      stopAnswering?.();
      bar?.clear();
    },
  };
}
