// What a snapshot keeps is written to by nobody: no device may be on a sealed image, and no mirror be one.

import { type DeviceTable, type SnapshotReads, withGivenUp } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
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
    [after?.image, after?.mirror?.image].flatMap((image) =>
      image === undefined || made.has(image) || known.has(image) ? [] : [{ device, image }],
    ),
  );
  if (written.length === 0) return;
  for (const ref of givesUp.reduce(withGivenUp, table).snapshots.toReversed()) {
    if (standing?.dropped.includes(ref.number)) continue;
    const { devices, number, name } = await snapshots.read(ref);
    for (const { device: keeper, chain } of devices) {
      const hit = written.find(({ image }) => chain.some((entry) => entry.image === image));
      if (!hit) continue;
      throw new ImgtxError(
        "E_IN_USE",
        `${withName(`snapshot ${number}`, name)} keeps it, of '${keeper}': nobody writes to it any more`,
        {
          device: hit.device,
          image: hit.image,
          hint: `\`imgtx rollback ${keeper} --to ${number}\` puts '${keeper}' on a new overlay over it`,
        },
      );
    }
  }
}
