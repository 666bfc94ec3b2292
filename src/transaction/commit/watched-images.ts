// The images that a commit rests on, open: whether each is what the transaction knew of it. A doubt about one that
// nothing is copied from is said, and stops no commit: it could never be settled.

import type { DeviceTable, Workspace } from "../../device/index.ts";
import { ImgtxError, settleAll } from "../../errors/index.ts";
import {
  describeDoubt,
  type Fingerprint,
  fingerprintAt,
  settleFingerprint,
  takeFingerprint,
} from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { assertUnchanged } from "../actions/plan/chain-entry.ts";
import { AS_IMAGE } from "../images/devices.ts";
import type { LeftImage } from "./leaving.ts";
import {
  lastSeen,
  liveStatements,
  type SeenImage,
  type TransactionState,
  volumesFilled,
} from "../journal/index.ts";

export interface OpenWatched {
  readonly watched: SeenImage;
  readonly file: StorageFile;
  readonly isLocked: boolean;
  /** Opened here, and closed here. */
  readonly isOwn: boolean;
}

/** Every image that the statements rest on, and every one that they made, each once. */
export async function openWatched(
  workspace: Workspace,
  state: TransactionState,
  inHand: { readonly open: ReadonlyMap<string, { readonly file: StorageFile; readonly isLocked: boolean }> },
): Promise<OpenWatched[]> {
  const opened: OpenWatched[] = [];
  const seen = lastSeen(state);
  workspace.storage.expectFlushes?.(seen.size);
  try {
    for (const watched of seen.values()) {
      const known = inHand.open.get(watched.image);
      const place = known
        ? { ...known, isOwn: false }
        : {
            file: await openOrExplain(workspace, watched, state.begin.implicit),
            isLocked: false,
            isOwn: true,
          };
      opened.push({ watched, ...place });
    }
    return opened;
  } catch (error) {
    for (const { file, isOwn } of opened) if (isOwn) await file.close();
    throw error;
  }
}

async function openOrExplain(
  workspace: Workspace,
  watched: SeenImage,
  isAlone: boolean,
): Promise<StorageFile> {
  try {
    return await workspace.storage.openFile(watched.image, "read", AS_IMAGE);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_NOT_FOUND") throw error;
    throw hasGone(watched, isAlone, error);
  }
}

/**
 * E_CHANGED for the first image that is not what it was. Returns what they look like now: of new ones, getting their names
 * has moved their change times.
 */
export async function assertNothingChanged(
  { storage }: Workspace,
  images: readonly OpenWatched[],
  state: TransactionState,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const { implicit: isAlone } = state.begin;
  const filled = new Set(liveStatements(state).flatMap(({ plan }) => volumesFilled(plan)));
  const looks = new Map<string, Fingerprint>();
  for (const { watched, file } of images) {
    const hasHeader = watched.fingerprint.headerSha256 !== null;
    const now = await fingerprintAt(storage, watched.image, hasHeader ? file : undefined);
    if (now === undefined) throw hasGone(watched, isAlone);
    const since = watched.isNew ? "imgtx made it" : "the transaction read it";
    assertUnchanged(watched, now, { since, isAlone, isFilled: filled.has(watched.image) });
    looks.set(watched.image, now);
  }
  return looks;
}

/**
 * Those of the images that have their change times as the plan read them, now that each later write moves these. What is left
 * of that moment is waited for.
 */
export async function findSettled(
  { storage }: Pick<Workspace, "storage">,
  images: readonly OpenWatched[],
  looks: ReadonlyMap<string, Fingerprint>,
  just: ReadonlySet<string>,
): Promise<readonly string[]> {
  if (just.size === 0) return [];
  const settled = images.map(async ({ watched: { image, fingerprint, isNew }, file }) => {
    const now = looks.get(image);
    if (isNew || !just.has(image) || !now || now.changedNs !== fingerprint.changedNs) return [];
    return (await settleFingerprint(storage.host, file, now)).settled === true ? [image] : [];
  });
  return (await settleAll(settled)).flat();
}

/** A line for each image that a device leaves and that may have been written to since the transaction read it. */
export async function describeDoubts(
  images: readonly OpenWatched[],
  left: readonly LeftImage[],
): Promise<string[]> {
  const lines: string[] = [];
  for (const { device, image, stays, isFrozen } of left) {
    const open = images.find(({ watched }) => watched.image === image);
    if (!open || open.watched.isNew || stays || isFrozen) continue;
    const now = await takeFingerprint(open.file, open.watched.fingerprint.headerSha256 !== null);
    const doubt = describeDoubt(open.watched.fingerprint, now);
    if (doubt === undefined) continue;
    lines.push(
      `whether somebody wrote to ${image} since the transaction read it can't be told from its times (${doubt}): ` +
        `that would stay there, and not be on '${device}'`,
    );
  }
  return lines;
}

/** What new images look like. Of copies once a later write to them would show: they are looked at again. */
export async function lookAtMade(
  { storage }: Workspace,
  table: DeviceTable,
  named: ReadonlyMap<string, Fingerprint>,
  images: readonly OpenWatched[],
): Promise<ReadonlyMap<string, Fingerprint>> {
  const made = images.filter(({ watched }) => watched.isNew);
  const copies = new Set(
    table.devices.flatMap(({ mirror }) =>
      mirror ? [...mirror.chain, ...mirror.source].map(({ image }) => image) : [],
    ),
  );
  const looks = new Map<string, Fingerprint>();
  for (const { watched, file } of made) {
    const now = named.get(watched.image);
    if (!now) continue;
    const isCopy = copies.has(watched.image);
    looks.set(watched.image, isCopy ? await settleFingerprint(storage.host, file, now) : now);
  }
  return looks;
}

function hasGone({ image, device, isNew }: SeenImage, isAlone: boolean, cause?: ImgtxError): ImgtxError {
  return new ImgtxError("E_CHANGED", isNew ? "the new image has gone" : "the image has gone", {
    image,
    ...(device !== null && { device }),
    hint: isAlone
      ? "put it back where it was, then run the command again"
      : "`imgtx txn abort` takes the transaction back; then begin again",
    ...(cause && { cause }),
  });
}
