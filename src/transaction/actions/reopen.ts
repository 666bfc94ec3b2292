// reopen: the device takes another image as its active layer. No image is written to, but that the fence of a
// frozen device moves along, and that a mirror is brought in sync first. A raw disk may get a new image around it.

import { type DeviceEntry, type MirrorEntry, requireDevice } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { type Chain, findCutOffImages, identityOf, shellQuote, writeImage } from "../../format/index.ts";
import { sayBytes } from "../../units/index.ts";
import { type Action, MAKES_NO_FILES, type Plan, type PlanContext } from "./plan/action.ts";
import { activeLayer, deviceEntryOf, notesOnMirrorLeft, settleChain } from "./plan/chain-entry.ts";
import { assertNotFrozen, moveFreeze } from "./plan/fencing.ts";
import { openUnlessLost } from "./plan/lost-device.ts";
import { findMissingParent, planResync } from "./plan/mirroring.ts";
import { mirrorOfSameContent } from "./plan/mirror-scope.ts";
import { entryOn, planShell, targetExists } from "./plan/new-overlay.ts";
import { noteStanding } from "./plan/overlays-of.ts";
import { assertQemuOpens } from "../images/openable.ts";
import type { ReopenRequest } from "../requests/request.ts";

export const reopen: Action<ReopenRequest> = {
  saying: { noun: "reopen", done: "reopened", planned: "would be reopened" },
  takenBackBy: "undo",
  renewal: {
    isMove: true,
    copyIn: (after) => after.image,
    requests: (_devices, changes) =>
      changes.flatMap(({ device, after }) =>
        after ? [{ kind: "reopen", device, file: after.image, format: after.format, force: false }] : [],
      ),
  },

  async plan({ device, file, format, force, asShell = false }, context) {
    const entry = requireDevice(context.table, device);
    const path = await context.canonicalPath(file, device);
    if (asShell) return await toShell(entry, path, context);
    const command = `imgtx reopen --force ${device} ${shellQuote(file)}`;
    const present = await openUnlessLost(entry, context, { isForced: force, command });
    if (entry.mirror?.image === path && present) {
      assertFormat(entry.mirror, format, device);
      return await toMirror(entry, entry.mirror, present, context);
    }
    const chosen = await context.openChain(path, format, device);
    const after = activeLayer(chosen);
    const sizeBefore = present ? activeLayer(present).virtualSizeBytes : entry.virtualSizeBytes;
    if (present) await assertNotTheMirror(entry, path, context);
    await assertQemuOpens(device, chosen);
    if (sizeBefore !== after.virtualSizeBytes && !force) {
      throw new ImgtxError(
        "E_REFUSED",
        `the virtual sizes differ: ${sayBytes(sizeBefore)} now, ${sayBytes(after.virtualSizeBytes)} in the other image`,
        { device, image: path, hint: "take it nevertheless with --force" },
      );
    }
    const moved = await moveFreeze(entry, { present, chosen }, context);
    return {
      ...MAKES_NO_FILES,
      devices: [device],
      reports: [
        {
          kind: "reopen",
          device,
          before: entry.image,
          after: path,
          format: after.format,
          files: moved.files,
          notes: [
            ...moved.notes,
            ...(present ? [] : [{ code: "content lost", image: entry.image, device } as const]),
            ...chosen.links.flatMap((link) => link.warnings),
            ...(await findCutOffImages(chosen)),
            ...(path === entry.image ? [] : await noteStanding(device, path, context)),
            { code: path === entry.image ? "on it already" : "other content", device },
            ...notesOnMirrorLeft(entry),
          ],
        },
      ],
      changes: [{ device, after: { ...deviceEntryOf(device, chosen, entry), frozen: moved.frozen } }],
      allowPaths: [],
      redo: moved.redo,
      chains: [...(present ? [{ device, chain: present }] : []), { device, chain: chosen }],
    };
  },
};

/** The same disk, by an image that is made around it. A guest that writes to the disk itself passes bitmaps by. */
async function toShell(entry: DeviceEntry, path: string, context: PlanContext): Promise<Plan> {
  const { name: device, image: before, mirror } = entry;
  assertNotFrozen(entry, "another image can't be made around it");
  const there = await context.storage.statLink(path);
  if (there) throw targetExists(device, path, there, "; leave --shell out for an image that is there");
  const chain = await context.openChain(before, entry.format, device);
  const planned = await planShell(device, chain, path);
  const after = {
    ...entryOn(entry, planned),
    // Where imgtx removes what it made, the data file goes along: that is the operator's.
    made: undefined,
    mirror: mirrorOfSameContent(mirror, chain, planned.chain),
  };
  return {
    ...MAKES_NO_FILES,
    devices: [device],
    reports: [
      {
        kind: "reopen",
        device,
        before,
        after: path,
        format: "qcow2",
        files: [{ path, change: "create" }],
        notes: [{ code: "shell around", image: before }],
      },
    ],
    changes: [{ device, after }],
    allowPaths: [],
    filesToMake: [planned.toMake],
    async fillFiles([file]) {
      if (file) await writeImage({ file }, planned.overlay);
    },
    chains: [{ device, chain }],
  };
}

/** A mirror takes over: the same content, brought in sync first where the device has moved on. */
async function toMirror(
  entry: DeviceEntry,
  mirror: MirrorEntry,
  opened: Chain,
  context: PlanContext,
): Promise<Plan> {
  const { name: device, image } = entry;
  const missing = findMissingParent(mirror);
  if (missing) {
    throw new ImgtxError("E_REFUSED", `the mirror stands on ${missing.image}, which is not made yet`, {
      device,
      image: mirror.image,
      hint: `make it first, with \`imgtx mirror ${device}\``,
    });
  }
  const present = await settleChain(context.storage.host, opened);
  const { copy, chosen } = await planResync(entry, present, context, { verify: false });
  const isMerged = copy.filesToMake.length > 0;
  if (entry.frozen && isMerged) {
    throw new ImgtxError("E_REFUSED", "it is frozen, and its mirror is not in sync with it", {
      device,
      image: mirror.image,
      hint: `bring it in sync first with \`imgtx mirror ${device}\``,
    });
  }
  const moved = await moveFreeze(entry, { present, chosen }, context);
  return {
    devices: [device],
    reports: [
      {
        kind: "reopen",
        device,
        before: image,
        after: mirror.image,
        format: mirror.format,
        files: [...moved.files, ...(isMerged ? [{ path: mirror.image, change: "change" as const }] : [])],
        notes: [
          ...moved.notes,
          { code: isMerged ? "mirror synced first" : "mirror was in sync" },
          { code: "image left", image },
        ],
      },
    ],
    changes: [{ device, after: { ...deviceEntryOf(device, chosen, entry), frozen: moved.frozen } }],
    allowPaths: [],
    filesToMake: copy.filesToMake,
    fillFiles: async (files, tools) => await copy.fillFiles(files, tools),
    redo: moved.redo,
    renewable: true,
    chains: copy.chains.map((chain) => ({ device, chain })),
  };
}

function assertFormat(mirror: MirrorEntry, format: string | undefined, device: string): void {
  if (format === undefined || format === mirror.format) return;
  throw new ImgtxError("E_REFUSED", `it is the mirror of '${device}', and its format is ${mirror.format}`, {
    device,
    image: mirror.image,
    hint: "leave --format out",
  });
}

/** Taken for any other image, the mirror would not be brought in sync, and what was written since be lost. */
async function assertNotTheMirror(
  { name: device, mirror }: DeviceEntry,
  path: string,
  { storage }: PlanContext,
): Promise<void> {
  const [known, named] = [mirror && (await storage.stat(mirror.image)), await storage.stat(path)];
  if (!mirror || !known || !named) return;
  if (identityOf(known) !== identityOf(named)) return;
  throw new ImgtxError("E_REFUSED", `it is the mirror of '${device}' by another name`, {
    device,
    image: path,
    hint: `name it as ${mirror.image}, so that it is brought in sync first`,
  });
}
