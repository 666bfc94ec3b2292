// repair: refcounts of the active layers of devices are set right, and what depends on them, as `qemu-img check -r` does.
// What is changed is told first, and counts from the commit.

import { ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  changesSomething,
  type ChainLink,
  judgeUndo,
  keepUndo,
  makeRepairs,
  planRepairs,
  playUndo,
  type Qcow2Link,
  type Repairs,
  hasNoChecks,
} from "../../format/index.ts";
import { PRIVATE } from "../images/access.ts";
import type { Note } from "../notes/notes.ts";
import type { RepairRequest, RepairUndoRequest } from "../requests/request.ts";
import type { Action, Plan, PlanContext } from "./plan/action.ts";
import { type ChangedDevice, changeOf, planInPlace } from "./plan/in-place.ts";
import { targetExists } from "./plan/new-overlay.ts";

/** A note each; beyond these their number is told. */
const COUNTS_TOLD_MAX = 1000;

export const repair: Action<RepairRequest> = {
  saying: { noun: "repair", done: "repaired", planned: "would be repaired" },
  mayDoNothing: true,
  async plan({ kind, devices, scope, keepUndo: wanted }, context): Promise<Plan> {
    const undo = wanted === undefined ? undefined : await planUndoFile(wanted, devices, context);
    const planOne = async (top: ChainLink): Promise<ChangedDevice> => {
      // The lines of flags are for who prints them.
      const repairs: Repairs = { ...(await planRepairs(top, scope)), flagLines: [] };
      if (!changesSomething(repairs)) {
        const isSound = repairs.errorsLeft + repairs.damage === 0;
        return { notes: isSound ? [{ code: "sound" }] : noteRepairs(top, repairs), after: {} };
      }
      return {
        notes: noteRepairs(top, repairs),
        after: {},
        redo: changeOf(
          top,
          async (link) => {
            const change = async (subject: Qcow2Link): Promise<void> => await makeRepairs(subject, repairs);
            const subject = requireQcow2(link);
            await (undo ? keepUndo(subject, undo.file(), change) : change(subject));
          },
          { precedesCopies: undo === undefined },
        ),
      };
    };
    const plan = await planInPlace(kind, devices, context, planOne, { mayLackRefcounts: true });
    return undo && plan.redo?.length ? undo.addTo(plan) : plan;
  },
};

export const repairUndo: Action<RepairUndoRequest> = {
  saying: {
    noun: "undoing of a repair",
    done: "as before its repair",
    planned: "would be as before its repair",
  },
  async plan({ kind, device, file: path }, context): Promise<Plan> {
    return await planInPlace(kind, [device], context, async (top) => {
      const { storage } = context;
      const withFile = async (use: (kept: ChainLink["file"]) => Promise<void>): Promise<void> => {
        await whileOpen(await storage.openFile(path, "read"), use);
      };
      await withFile(async (kept) => await judgeUndo(requireQcow2(top), kept));
      return {
        notes: [{ code: "repair undone", image: path }],
        after: {},
        redo: changeOf(top, async (link) => {
          await withFile(async (kept) => await playUndo(requireQcow2(link), kept));
        }),
      };
    });
  },
};

/** The file that takes a repair back: private, since it has what was in the image. It is written while that is staged. */
async function planUndoFile(wanted: string, devices: readonly string[], context: PlanContext) {
  const [device = "", other] = devices;
  if (other !== undefined) {
    throw new ImgtxError("E_USAGE", `--keep-undo is for one device, and '${other}' is another`, {
      hint: "repair each by a command of its own, in one transaction if they are to go together",
    });
  }
  const path = await context.canonicalPath(wanted, device);
  const there = await context.storage.statLink(path);
  if (there) throw targetExists(device, path, there, "");
  let made: ChainLink["file"] | undefined;
  return {
    file(): ChainLink["file"] {
      if (!made) throw new Error("files are filled before changes are staged");
      return made;
    },
    addTo: (plan: Plan): Plan => ({
      ...plan,
      filesToMake: [{ path, hasHeader: false, ...PRIVATE }],
      fillFiles: async ([file]) => {
        made = file;
        await Promise.resolve();
      },
      reports: plan.reports.map((report) => ({
        ...report,
        files: [...report.files, { path, change: "create" as const }],
        notes: [...report.notes, { code: "undo kept", image: path, device }],
      })),
    }),
  };
}

function requireQcow2(link: ChainLink): Qcow2Link {
  const { header } = link;
  if (header !== undefined) return { ...link, header };
  throw hasNoChecks(link);
}

function noteRepairs({ header }: ChainLink, repairs: Repairs): Note[] {
  const { counts, rebuilds, flags, snapshots, cut, marks, errorsLeft, damage, damageLine = "" } = repairs;
  const clusterBytes = header?.clusterSizeBytes ?? 0;
  const more = counts.length - COUNTS_TOLD_MAX;
  const told: Note[] = [];
  for (const { cluster, before, after } of counts) {
    if (told.length === COUNTS_TOLD_MAX) break;
    told.push({ code: "count repaired", offset: cluster * clusterBytes, before, after });
  }
  return [
    ...told,
    ...(more > 0 ? [{ code: "more counts repaired", counts: more } as const] : []),
    ...(rebuilds ? [{ code: "refcounts rebuilt" } as const] : []),
    ...(flags > 0 ? [{ code: "flags repaired", flags } as const] : []),
    ...(cut ? [{ code: "extra data cut", entries: cut.lines.length } as const] : []),
    ...(snapshots > 0 ? [{ code: "snapshots completed", entries: snapshots } as const] : []),
    ...marks.map((mark): Note => ({ code: "mark removed", mark })),
    ...(errorsLeft > 0 ? [{ code: "errors left", errors: errorsLeft } as const] : []),
    ...(damage > 0 ? [{ code: "damage left", entries: damage, first: damageLine } as const] : []),
  ];
}
