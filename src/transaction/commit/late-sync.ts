// A device that goes over to its mirror takes along what was written to its old image after the commit mark: the mirror
// is synced anew by content, and then the table moves. Where that has moved by then, see moved-devices.ts.
//
// Invariants
// - The old image is locked from before it is read until the table has moved, and looked at again when it has been read:
//   what was written meanwhile, by whoever heeds no locks, is not left behind.
// - Only the very file that was planned is written to. It may be cut off anywhere: then the device is where it was, and
//   the next one begins anew.
// - Where it takes long it is not done under the workspace lock.

import {
  type DeviceEntry,
  type DeviceTable,
  filesOfEntry,
  findDevice,
  renamed,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  copyDifferences,
  describeChanges,
  type Fingerprint,
  type ImageFormat,
  isSameFile,
  openImage,
  takeFingerprint,
} from "../../format/index.ts";
import type { LockWaiting, StorageFile } from "../../storage/index.ts";
import { progressOf } from "../actions/plan/action.ts";
import { lastSeen, liveStatements, renamesOf, type TransactionState } from "../journal/index.ts";
import { lockWriter, openUnlessGone } from "../images/open-free.ts";
import { plannedGate } from "../images/planned-gate.ts";
import type { OnProgress } from "../requests/request.ts";

/** An image that its device leaves for its mirror, and that was written to, or may have been. */
export interface StaleMirror {
  readonly device: string;
  /** The old image, or its data file, and what it is now. */
  readonly image: string;
  readonly file: StorageFile;
  readonly now: Fingerprint;
  /** What shows that somebody wrote to it; undefined: that can't be told. */
  readonly changes: string | undefined;
  readonly mirror: {
    readonly path: string;
    readonly format: ImageFormat;
    /** Whether a fence is up on it, which the transaction has raised for a frozen device, and which stays. */
    readonly isFenced: boolean;
  };
}

/** The image that a statement took for a copy of the device, and moved it to; undefined where none did. */
export function findMirrorTaken(
  state: TransactionState,
  next: DeviceTable,
  before: DeviceEntry,
): Omit<StaleMirror["mirror"], "isFenced"> | undefined {
  const chain = findDevice(next, renamed(before.name, renamesOf(state)))?.chain ?? [];
  const moves = liveStatements(state)
    .filter(({ plan }) => plan.renewable)
    .flatMap(({ plan }) => plan.changes)
    .flatMap(({ device, after }) => (device === before.name && after ? [after] : []))
    .filter(({ image }) => image !== before.image && chain.some((entry) => entry.image === image));
  const taken = moves.at(-1);
  return taken && { path: taken.image, format: taken.format };
}

export interface HowToSync {
  readonly present: DeviceTable;
  readonly waiting?: LockWaiting | undefined;
  readonly onProgress?: OnProgress | undefined;
  readonly onNotice?: ((line: string) => void) | undefined;
  /** Whether what takes long is left to others: E_UNFINISHED then. */
  readonly isBrief?: boolean | undefined;
  /** Looks at the mirror, which is locked; what it returns is called before that is written to, and may throw. */
  readonly lookFirst?: ((stale: StaleMirror) => Promise<() => Promise<void>>) | undefined;
}

/** What is compared in moments, before whatever a command was called for. */
const BRIEF_BYTES = 64 * 2 ** 20;

/** Syncs the mirrors anew, durably. Returns what they look like. */
export async function syncLate(
  workspace: Workspace,
  state: TransactionState,
  stale: readonly StaleMirror[],
  how: HowToSync,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const looks = new Map<string, Fingerprint>();
  for (const { mirror, device } of new Map(stale.map((one) => [one.device, one])).values()) {
    const left = stale.filter((one) => one.device === device);
    const entry = findDevice(how.present, device);
    if (!entry) throw new Error("a device that leaves an image is in the table");
    if (how.isBrief === true) await assertBrief(workspace.storage, entry, mirror.path);
    for (const [image, look] of await syncOne(workspace, state, { entry, mirror, left }, how)) {
      looks.set(image, look);
    }
  }
  return looks;
}

interface LateSync {
  /** As it is before the move. */
  readonly entry: DeviceEntry;
  readonly mirror: StaleMirror["mirror"];
  readonly left: readonly StaleMirror[];
}

async function syncOne(
  workspace: Workspace,
  state: TransactionState,
  { entry, mirror, left }: LateSync,
  { present, waiting, onProgress, onNotice, lookFirst }: HowToSync,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const { name: device, image, format } = entry;
  const seen = lastSeen(state);
  const { storage } = workspace;
  const plan = liveStatements(state).findLast((one) => one.plan.devices.includes(device))?.plan;
  const gate = plannedGate(workspace, state, { plan, allowPaths: present.allowPaths });
  const file = await openUnlessGone(storage, mirror.path);
  try {
    const expected = seen.get(mirror.path)?.fingerprint;
    if (!file || !expected || !isSameFile(expected, await file.stat())) throw isNotThere(mirror.path, device);
    await lockWriter(storage, file, waiting);
    const [first] = left;
    const onDiffer = first && (await lookFirst?.(first));
    const source = await openImage(storage, image, { format, gate });
    try {
      const { lengthBytes, looks } = await copyDifferences(storage, source, mirror, {
        gate,
        onProgress: progressOf({ onProgress }, `syncing ${mirror.path}`),
        onDiffer,
      });
      for (const one of left) await assertHeldStill(one);
      const changes = left.flatMap((one) => one.changes ?? []).join(", ");
      if (lengthBytes > 0 || changes !== "") {
        const why =
          changes === "" ? "it differed" : `somebody wrote to ${image} after the commit (${changes})`;
        onNotice?.(
          `synced ${mirror.path} with '${device}' anew before ${lookFirst ? "it was shown" : "the move"}, ${lengthBytes} bytes of it: ${why}`,
        );
      }
      return looks;
    } finally {
      await source.close();
    }
  } finally {
    await file?.close();
  }
}

async function assertHeldStill({ device, image, file, now }: StaleMirror): Promise<void> {
  const changes = describeChanges(now, await takeFingerprint(file, now.headerSha256 !== null));
  if (changes.length === 0) return;
  const message = `somebody wrote to it while its mirror was synced anew (${changes.join(", ")})`;
  throw new ImgtxError("E_LOCKED", message, { image, device });
}

function isNotThere(image: string, device: string): ImgtxError {
  const message = `it is not there, and has to be synced anew: '${device}' was written to after the commit`;
  return new ImgtxError("E_NOT_FOUND", message, {
    image,
    device,
    hint: "mount its disk, or put the file back",
  });
}

/** E_UNFINISHED where both have more than can be read in moments. */
export async function assertBrief(
  storage: Workspace["storage"],
  { name, chain }: DeviceEntry,
  mirror: string,
): Promise<void> {
  const files = [mirror, ...chain.flatMap(filesOfEntry).map(({ image }) => image)];
  if ((await takenBy(storage, files)) <= BRIEF_BYTES) return;
  const message = `its mirror has to be compared with '${name}' before that goes over to it, which takes long`;
  throw new ImgtxError("E_UNFINISHED", message, { image: mirror, device: name });
}

/** The same of an image that is to go, and of the one that its device is on. */
export async function assertRemovalBrief(
  storage: Workspace["storage"],
  left: string,
  present: string,
): Promise<void> {
  if ((await takenBy(storage, [left, present])) <= BRIEF_BYTES) return;
  const message = `it has to be compared with '${present}' before it goes, which takes long`;
  throw new ImgtxError("E_UNFINISHED", message, { image: left });
}

async function takenBy(storage: Workspace["storage"], files: readonly string[]): Promise<number> {
  let bytes = 0;
  for (const path of files) bytes += (await storage.stat(path))?.allocatedBytes ?? 0;
  return bytes;
}
