// repair: refcounts of the active layers of devices are set right, and what depends on them, as `qemu-img check -r` does.
// What is changed is told first, and counts from the commit.

import {
  changesSomething,
  type ChainLink,
  makeRepairs,
  planRepairs,
  type Repairs,
} from "../../format/index.ts";
import type { Note } from "../notes.ts";
import type { RepairRequest } from "../request.ts";
import type { Action, Plan } from "./plan/action.ts";
import { changeOf, planInPlace } from "./plan/in-place.ts";

/** A note each; beyond these their number is told. */
const COUNTS_TOLD_MAX = 1000;

export const repair: Action<RepairRequest> = {
  saying: { noun: "repair", done: "repaired", planned: "would be repaired" },
  mayDoNothing: true,
  async plan({ kind, devices, scope }, context): Promise<Plan> {
    return await planInPlace(kind, devices, context, async (top) => {
      const repairs = await planRepairs(top, scope);
      if (!changesSomething(repairs)) {
        const isSound = repairs.errorsLeft + repairs.damage === 0;
        return { notes: isSound ? [{ code: "sound" }] : noteRepairs(top, repairs), after: {} };
      }
      return {
        notes: noteRepairs(top, repairs),
        after: {},
        redo: changeOf(top, async (link) => {
          const { header } = link;
          if (header !== undefined) await makeRepairs({ ...link, header }, repairs);
        }),
      };
    });
  },
};

function noteRepairs({ header }: ChainLink, repairs: Repairs): Note[] {
  const { counts, rebuilds, flags, snapshots, marks, errorsLeft, damage, damageLine = "" } = repairs;
  const clusterBytes = header?.clusterSizeBytes ?? 0;
  const more = counts.length - COUNTS_TOLD_MAX;
  return [
    ...counts.slice(0, COUNTS_TOLD_MAX).map(
      ({ cluster, before, after }): Note => ({
        code: "count repaired",
        offset: cluster * clusterBytes,
        before,
        after,
      }),
    ),
    ...(more > 0 ? [{ code: "more counts repaired", counts: more } as const] : []),
    ...(rebuilds ? [{ code: "refcounts rebuilt" } as const] : []),
    ...(flags > 0 ? [{ code: "flags repaired", flags } as const] : []),
    ...(snapshots > 0 ? [{ code: "snapshots completed", entries: snapshots } as const] : []),
    ...marks.map((mark): Note => ({ code: "mark removed", mark })),
    ...(errorsLeft > 0 ? [{ code: "errors left", errors: errorsLeft } as const] : []),
    ...(damage > 0 ? [{ code: "damage left", entries: damage, first: damageLine } as const] : []),
  ];
}
