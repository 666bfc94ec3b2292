// What a snapshot keeps is written to by nobody: no device may be on a sealed image, and no mirror be one.

import {
  type ChainEntry,
  type DeviceTable,
  type SnapshotReads,
  type SnapshotRef,
  withGivenUp,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { isDeviceIdentity, isSameFile } from "../../format/index.ts";
import type { PlanRecord } from "../journal/index.ts";
import { withName } from "../note-words.ts";

/** E_IN_USE where a device would write to an image that is sealed, with the way that works. */
export async function assertSealedStay(
  snapshots: SnapshotReads,
  table: DeviceTable,
  {
    changes,
    newFiles,
    standing,
    givesUp = [],
  }: Pick<PlanRecord, "changes" | "newFiles" | "standing" | "givesUp">,
): Promise<void> {
  const made = new Set(newFiles.map(({ path }) => path));
  const known = new Set(table.devices.flatMap(({ image, mirror }) => [image, mirror?.image]));
  const written = changes.flatMap(({ device, after }) =>
    [after?.chain[0], after?.mirror?.chain[0]].flatMap((top) =>
      top === undefined || made.has(top.image) || known.has(top.image) ? [] : [{ device, top }],
    ),
  );
  if (written.length === 0) return;
  const then = givesUp.reduce(withGivenUp, table);
  const images = new Set(written.map(({ top }) => top.image));
  for (const ref of likelyFirst(then, images)) {
    if (standing?.dropped.includes(ref.number)) continue;
    const { devices, number, name } = await snapshots.read(ref);
    for (const { device: keeper, chain } of devices) {
      const hit = written.find(({ top }) => chain.some((entry) => isOneImage(entry, top)));
      if (!hit) continue;
      throw new ImgtxError(
        "E_IN_USE",
        `${withName(`snapshot ${number}`, name)} keeps it, of '${keeper}': nobody writes to it any more`,
        {
          device: hit.device,
          image: hit.top.image,
          hint: `\`imgtx rollback ${keeper} --to ${number}\` puts '${keeper}' on a new overlay over it`,
        },
      );
    }
  }
}

/**
 * The newest first, but before all others those that chains of the table name as the keepers of the images: a record has to
 * be read for each other snapshot, and there may be thousands.
 */
function likelyFirst(
  { devices, snapshots }: DeviceTable,
  images: ReadonlySet<string>,
): readonly SnapshotRef[] {
  const sealers = new Set(
    devices.flatMap(({ chain }) => {
      const depth = chain.findIndex(({ image }) => images.has(image));
      const sealer = chain.slice(0, depth + 1).findLast(({ sealedBy }) => sealedBy !== undefined);
      return sealer?.sealedBy ?? [];
    }),
  );
  const newest = snapshots.toReversed();
  return [
    ...newest.filter((ref) => sealers.has(ref.number)),
    ...newest.filter((ref) => !sealers.has(ref.number)),
  ];
}

/** A volume has several names, such as /dev/vg/disk and /dev/mapper/vg-disk. */
function isOneImage(sealed: ChainEntry, written: ChainEntry): boolean {
  if (sealed.image === written.image) return true;
  return isDeviceIdentity(written.fingerprint) && isSameFile(sealed.fingerprint, written.fingerprint);
}
