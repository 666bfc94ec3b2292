// How an image is kept safe against other writers and guests while its log is applied, which a crash may cut off and
// hold up for as long as the machine is down.
//
// - none: all changes are in one sector. A disk writes that wholly or not at all, so nobody finds half of them.
// - fence: while the fence is up nobody opens the image. All but the first sector is written, then made durable, then
//   the first sector, which takes the fence down. Whoever finds it down finds all the rest in place. An image may have
//   its fence from before, and one may be kept: nobody opens it then before, meanwhile, or afterwards.
// - digests: where no fence can be. Each sector is written only if it is what the log says that it replaces, or
//   already what it shall be: what a stranger has written since is never lost.
// - owner: of a data file that gives back what its image maps, and in which nothing else changes: the image has its fence
//   up before the first hole, and until all are durable. What the holes replace need not be known, nor be read for that.

import { ImgtxError } from "../../errors/index.ts";
import type { ByteRange } from "../../storage/index.ts";
import { alignUp, SECTOR_BYTES } from "../../units/index.ts";
import type { RedoLog } from "./redo-log.ts";
import { pageFrom, SECTORS_PER_PAGE } from "./sectors.ts";

/** The bytes that a fence changes, without it and while it is up; both are equally long. */
export interface FenceBytes {
  readonly offset: number;
  readonly before: Uint8Array;
  readonly after: Uint8Array;
}

/** Lays the fence over bytes that stand at an offset of the image, as far as it lies in them. */
export function setFence(bytes: Uint8Array, at: number, { offset, after }: FenceBytes): void {
  const from = Math.max(0, at - offset);
  const to = Math.min(after.length, at + bytes.length - offset);
  if (from < to) bytes.set(after.subarray(from, to), offset + from - at);
}

export type Guard =
  | { readonly kind: "digests" | "owner" }
  | {
      readonly kind: "fence";
      /** The one that is up while the log is applied; undefined where the image has had one since before. */
      readonly fence: FenceBytes | undefined;
      /** The one that stays, over what the log leaves. Its sectors are staged. Undefined: none does. */
      readonly kept?: FenceBytes | undefined;
    };

export type FenceGuard = Extract<Guard, { readonly kind: "fence" }>;

/** What has to be staged, changed or not, so that the fence comes down with the log: its sectors, the first included. */
export function sectorsOfFence(fence: FenceBytes | undefined): ByteRange {
  const end = fence ? fence.offset + fence.after.length : 1;
  return { start: 0, lengthBytes: alignUp(end, SECTOR_BYTES) };
}

/** E_INTERNAL where the log can't be applied under this guard. */
export function assertGuard(log: RedoLog, guard: Guard): void {
  if (guard.kind === "fence") {
    const { fence, kept } = guard;
    const lengthBytes = Math.max(sectorsOfFence(fence).lengthBytes, sectorsOfFence(kept).lengthBytes);
    const masks = new Map<number, number>();
    for (const { page, changed } of log.map.pages(pageFrom(lengthBytes))) masks.set(page, changed);
    for (let sector = 0; sector * SECTOR_BYTES < lengthBytes; sector += 1) {
      const mask = masks.get(Math.floor(sector / SECTORS_PER_PAGE)) ?? 0;
      if ((mask & (1 << (sector % SECTORS_PER_PAGE))) === 0) {
        throw unfit(log, `the fence's sector ${sector} is not in it: the fence would stay`);
      }
    }
  }
  if (guard.kind === "owner") {
    const [page] = log.map.pages(pageFrom(log.sizeBytes));
    const changes = page !== undefined || log.sizeBytes !== log.baseSizeBytes;
    if (changes) throw unfit(log, "what it writes does not say what it replaces");
  }
  if (guard.kind === "digests" && !log.header.checksHoles) {
    const [hole] = log.map.holes(pageFrom(log.sizeBytes));
    if (hole !== undefined) throw unfit(log, "its holes do not say what they replace");
  }
}

function unfit(log: RedoLog, why: string): ImgtxError {
  return new ImgtxError("E_INTERNAL", `the redo log can't be applied: ${why}`, { image: log.identity.image });
}
