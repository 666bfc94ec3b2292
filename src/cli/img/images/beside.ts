// What interrupted commands have left beside images, ended before these are read. The transaction layer is loaded only
// where something is there.

import { ImgtxError } from "../../../errors/index.ts";
import { type Beside, findBeside, type OpenedImage, pathsOfLink } from "../../../format/index.ts";
import type { RecoveryNote } from "../../../transaction/index.ts";
import type { CliContext } from "../../context.ts";
import type { Engine } from "../../engine.ts";
import type { ImgInvocation } from "../command.ts";
import { lockWaiting } from "./lock-waiting.ts";

export async function loadEngine({ engine }: Pick<CliContext, "engine">): Promise<Engine> {
  return engine ?? (await import("../../../transaction/index.ts"));
}

export function noteRecovered({ console }: Pick<ImgInvocation, "console">, { text }: RecoveryNote): void {
  console.error(text);
}

/** Files of an image that is open: its own, and what it reads through. */
export function filesBelow({ chain }: Pick<OpenedImage, "chain">): string[] {
  return chain.links.flatMap(pathsOfLink);
}

/**
 * What `open` returns, with nothing unfinished beside any of its files: else that is ended, and it is opened anew.
 * E_TRANSACTION where one may be half changed, but for who reads without locks (isForced).
 */
export async function openSettled<T>(
  invocation: ImgInvocation,
  open: () => Promise<T>,
  how: {
    readonly filesOf: (opened: T) => readonly string[];
    readonly close: (opened: T) => Promise<void>;
    readonly isForced: boolean;
  },
): Promise<T> {
  const { storage } = invocation.context;
  const settled = new Set<string>();
  const findNew = async (paths: readonly string[]): Promise<Beside[]> => {
    const found = await Promise.all(paths.map(async (path) => await findBeside(storage, path)));
    return found.filter((one): one is Beside => one !== undefined && !settled.has(one.folder));
  };
  for (;;) {
    let found: Beside[];
    try {
      const opened = await open();
      found = await findNew(how.filesOf(opened));
      if (found.length === 0) return opened;
      await how.close(opened);
    } catch (error) {
      // What is half changed may not open.
      found = error instanceof ImgtxError && error.image !== undefined ? await findNew([error.image]) : [];
      if (found.length === 0) throw error;
    }
    for (const beside of found) {
      settled.add(beside.folder);
      await settle(invocation, beside, how.isForced);
    }
  }
}

/** The same for a file that is about to be overwritten. */
export async function settlePath(invocation: ImgInvocation, path: string): Promise<void> {
  const beside = await findBeside(invocation.context.storage, path);
  if (beside) await settle(invocation, beside, false);
}

async function settle(invocation: ImgInvocation, beside: Beside, isForced: boolean): Promise<void> {
  const { context, safeWorkspaces } = invocation;
  const { settleBeside } = await loadEngine(context);
  const how = {
    caller: "reader",
    needsImage: !isForced,
    waiting: lockWaiting(invocation),
    safeWorkspaces,
  } as const;
  const { notes, amid } = await settleBeside(context.storage, beside, how);
  if (amid && !isForced) throw amid;
  for (const note of notes) noteRecovered(invocation, note);
}
