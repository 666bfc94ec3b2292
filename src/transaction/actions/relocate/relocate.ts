// relocate: devices go to another folder, with all that snapshots keep of them. Each image is copied there, byte for byte but
// for the names that it stores, read back, and given to the device and to the records of its snapshots by the commit; the
// sources go when the table has moved.
//
// Decision: images are copied, also within a file system, and blocks are shared where that can. A rename, or a second name for
// the same file, would have to come with another name stored in that very file: a crash in between leaves one that leads
// nowhere, or changes an image before the mark.
//
// Invariant: until the mark the sources are untouched, and after it each goes only where it is what was copied. What is in
// the folder already, and stands on one of them, names the copy before that goes.

import { posix } from "node:path";
import {
  type ChainEntry,
  type DeviceEntry,
  findDevice,
  type GivenUp,
  requireDevice,
  withTrusted,
} from "../../../device/index.ts";
import { ImgtxError, withPlace } from "../../../errors/index.ts";
import { changeBacking, pathsOfLink, shellQuote } from "../../../format/index.ts";
import { accessLike } from "../../images/access.ts";
import { NOT_MADE_YET } from "../../journal/index.ts";
import type { PlannedReport } from "../../journal/index.ts";
import type { Note } from "../../notes/notes.ts";
import type { RelocateRequest } from "../../requests/device-requests.ts";
import { type Action, assertNamedOnce, type Plan, type PlanContext } from "../plan/action.ts";
import { activeLayer, chainEntriesOf } from "../plan/chain-entry.ts";
import { assertNotFrozen } from "../plan/fencing.ts";
import { mirrorOfSameContent } from "../plan/mirror-scope.ts";
import { type Layer, takenOf } from "../way-back/layers.ts";
import {
  marksOf,
  placesFrom,
  type Rearranged,
  renewRecords,
  renewTaken,
} from "../way-back/renewed-records.ts";
import { fillCopies, type PlannedFileCopy } from "./fill.ts";
import { type DeviceLayers, type Move, type Moves, planMoves, type Relink } from "./moves.ts";

export const relocate: Action<RelocateRequest> = {
  saying: { noun: "relocation", done: "relocated", planned: "would be relocated" },
  mayDoNothing: true,
  isResumable: true,

  async plan({ devices: named, folder: asked, keep }, context): Promise<Plan> {
    const devices = named ?? context.table.devices.map(({ name }) => name);
    assertNamedOnce(devices);
    for (const device of devices) await assertNoWorkspace(device, asked, context);
    const entries = devices.map((device) => requireDevice(context.table, device));
    for (const entry of entries) assertNotFrozen(entry, "its copy would have its fence");
    const folder = await findFolder(asked, devices[0] ?? "", context);
    const moves = await planMoves({ devices: entries, folder, keep }, context);
    const files = await planFiles(moves);
    if (!keep) await assertRemovable(moves, context);
    const removes = keep ? [] : moves.moves.flatMap(({ link }) => pathsOfLink(link)).filter(isGone(files));
    const planned = [];
    for (const one of moves.devices) planned.push(await planOne(one, moves, context));
    const changed = moves.relinks.map(({ link }) => link.path);
    return {
      devices,
      reports: planned.map((one, index) =>
        reportOf(one, moves, { files, removes, isFirst: index === 0, keep }),
      ),
      changes: planned.flatMap(({ after, entry }) => (after ? [{ device: entry.name, after }] : [])),
      allowPaths: [],
      filesToMake: files.map(({ toMake }) => toMake),
      fillFiles: async (own, tools) => {
        await fillCopies(files, own, { folder, storage: context.storage }, tools);
      },
      givesUp:
        moves.moves.length === 0
          ? []
          : planned.map(({ givesUp }, index) => ({
              ...givesUp,
              images: index === 0 ? [...changed, ...removes] : [],
            })),
      redo: moves.relinks.map(({ link, backing }) => ({
        link,
        isLast: true,
        write: async (file) => await changeBacking(file, backing),
      })),
      removes,
      chains: moves.devices.flatMap(({ entry, open }) =>
        open.chains.map((chain) => ({ device: entry.name, chain })),
      ),
    };
  },
};

/** E_NO_DEVICE for a word that no device has, and a folder with a workspace in it: a path would have meant that. */
async function assertNoWorkspace(
  device: string,
  asked: string,
  { table, storage, gate }: PlanContext,
): Promise<void> {
  if (findDevice(table, device)) return;
  const folder = posix.join(gate.currentFolder, device);
  if ((await storage.statLink(posix.join(folder, ".imgtx")))?.kind !== "folder") return;
  throw new ImgtxError("E_NO_DEVICE", `'${device}' is no device, but the folder of a workspace`, {
    hint: `\`imgtx relocate ${shellQuote(`./${device}`)} ${shellQuote(asked)}\` moves that`,
  });
}

/** E_NOT_FOUND, E_NOT_A_FILE for what is no folder; E_REFUSED for one of imgtx's own. */
async function findFolder(asked: string, device: string, context: PlanContext): Promise<string> {
  const { storage } = context;
  const there = await storage.stat(asked);
  if (there?.kind === "folder") {
    const path = await context.canonicalPath(posix.join(await storage.realPath(asked), "x"), device);
    return posix.dirname(path);
  }
  throw new ImgtxError(
    there ? "E_NOT_A_FILE" : "E_NOT_FOUND",
    there ? "the target is no folder" : "the target folder is not there",
    { image: asked, hint: "make the folder that the images are to go to, and mount its disk" },
  );
}

/** But for a data file that lies in the folder already. */
function isGone(files: readonly PlannedFileCopy[]): (path: string) => boolean {
  const sources = new Set(files.map(({ source }) => source.path));
  return (path) => sources.has(path);
}

/** Each image, and after it its data file. */
async function planFiles({ moves }: Moves): Promise<PlannedFileCopy[]> {
  const files: PlannedFileCopy[] = [];
  for (const { link, to, dataFileTo, head } of moves) {
    const { file, stat } = link;
    files.push({
      source: { path: link.path, file, stat },
      head,
      toMake: { ...(await accessLike({ file, stat })), path: to, hasHeader: link.format === "qcow2" },
    });
    if (dataFileTo === undefined || !link.dataFile) continue;
    const data = {
      path: link.dataFile.path,
      file: link.dataFile.file,
      stat: await link.dataFile.file.stat(),
    };
    files.push({
      source: data,
      head: undefined,
      toMake: { ...(await accessLike(data)), path: dataFileTo, hasHeader: false },
    });
  }
  return files;
}

/** E_REFUSED where the sources can't go: on a disk that is read only, or of somebody else. */
async function assertRemovable({ moves }: Moves, { storage }: PlanContext): Promise<void> {
  for (const image of moves.flatMap(({ link }) => pathsOfLink(link))) {
    try {
      await (await storage.openFile(image, "write")).close();
    } catch (error) {
      const isOurs = error instanceof ImgtxError && ["E_READ_ONLY", "E_NO_PERMISSION"].includes(error.code);
      if (!isOurs) throw error;
      throw new ImgtxError("E_REFUSED", `it could not be removed afterwards: ${error.message}`, {
        image,
        hint: "`--keep` copies it, and leaves it where it is",
        cause: error,
      });
    }
  }
}

interface PlannedDevice {
  readonly entry: DeviceEntry;
  /** Undefined where nothing of its chain goes. */
  readonly after: DeviceEntry | undefined;
  readonly givesUp: GivenUp;
}

async function planOne(
  { entry, layers, open }: DeviceLayers,
  { moves, relinks }: Moves,
  context: PlanContext,
): Promise<PlannedDevice> {
  const { name: device, image } = entry;
  const own = moves.filter(({ layer }) => layers.has(layer.image));
  const tree = rearrange(layers, own, relinks);
  const raw = own.flatMap(({ link, to, dataFileTo }) =>
    link.format === "raw" ? [to] : dataFileTo === undefined ? [] : [dataFileTo],
  );
  const renewed = await withPlace({ device }, async () =>
    renewRecords(device, context.table.snapshots, context.snapshots, tree),
  );
  const chain = open.chains.find(({ links: [top] }) => top?.path === image);
  if (!chain) throw new Error("the device's own chain is open");
  const present = new Map(chainEntriesOf(chain).map((one) => [one.image, one]));
  const places = placesFrom(image, tree);
  const after: ChainEntry[] = places.map((place) => ({ ...place, ...freshOf(place, present) }));
  const isMoved = places.some((place) => !present.has(place.image));
  const [top] = after;
  if (!top) throw new Error("a chain has an image");
  const { made, ...rest } = withTrusted(entry, raw);
  return {
    entry,
    after: isMoved
      ? {
          ...rest,
          image: top.image,
          virtualSizeBytes: activeLayer(chain).virtualSizeBytes,
          chain: after,
          ...(made !== undefined && { made: made === image ? top.image : made }),
          mirror: mirrorOfSameContent(entry.mirror, chain, after),
        }
      : undefined,
    givesUp: {
      device,
      images: [],
      snapshots: [],
      renewed: renewed.map((one) => ({
        ...one,
        devices: one.devices.map((sealed) => ({
          ...sealed,
          ...(raw.length > 0 && { trusted: [...new Set([...(sealed.trusted ?? []), ...raw])] }),
        })),
      })),
      marks: marksOf(image, tree),
      taken: renewTaken(takenOf(device, context), context.table.nextSnapshot, tree),
    },
  };
}

/** What does not go is what it is now; a new file is looked at when it is made. */
function freshOf(
  place: ChainEntry,
  present: ReadonlyMap<string, ChainEntry>,
): Pick<ChainEntry, "fingerprint" | "dataFile"> {
  const { fingerprint, dataFile } = present.get(place.image) ?? place;
  return { fingerprint, dataFile };
}

function rearrange(
  layers: DeviceLayers["layers"],
  moves: readonly Move[],
  relinks: readonly Relink[],
): Rearranged {
  const placed = moves.map(({ layer, to, dataFileTo }): Layer => {
    const { dataFile } = layer.entry;
    const moved = dataFileTo === undefined ? dataFile : { image: dataFileTo, fingerprint: NOT_MADE_YET };
    return {
      ...layer,
      image: to,
      entry: { ...layer.entry, image: to, fingerprint: NOT_MADE_YET, dataFile: dataFile && moved },
    };
  });
  return {
    layers: new Map([...layers, ...placed.map((layer) => [layer.image, layer] as const)]),
    fileOf: new Map(moves.map(({ layer, to }) => [layer.image, to])),
    belowOf: new Map(),
    nameOf: new Map([
      ...moves.flatMap(({ to, nameOfBelow }) =>
        nameOfBelow === undefined ? [] : [[to, nameOfBelow] as const],
      ),
      ...relinks.map(({ link, backing }) => [link.path, backing.name] as const),
    ]),
    touched: new Set(relinks.map(({ link }) => link.path)),
  };
}

function reportOf(
  { entry, after }: PlannedDevice,
  { moves, relinks, notes }: Moves,
  {
    files,
    removes,
    isFirst,
    keep,
  }: {
    readonly files: readonly PlannedFileCopy[];
    readonly removes: readonly string[];
    readonly isFirst: boolean;
    readonly keep: boolean;
  },
): PlannedReport {
  const { name: device, image, format } = entry;
  const lengthBytes = files.reduce((sum, { source }) => sum + source.stat.allocatedBytes, 0);
  const isInFolder = moves.some(({ to }) => posix.dirname(to) === posix.dirname(image));
  const told: Note[] = [
    moves.length === 0
      ? { code: "nothing to relocate" }
      : { code: "to relocate", entries: files.length, lengthBytes, stays: keep },
    ...(keep || moves.length === 0 || isInFolder
      ? []
      : [{ code: "way to move back", image: posix.dirname(image), device } as const]),
    ...notes,
  ];
  return {
    kind: "relocate",
    device,
    before: image,
    after: after?.image ?? image,
    format,
    // All that goes is told with the first device.
    files: isFirst
      ? [
          ...files.map(({ toMake }) => ({ path: toMake.path, change: "create" as const })),
          ...relinks.map(({ link: { path } }) => ({ path, change: "change" as const })),
          ...removes.map((path) => ({ path, change: "remove" as const })),
        ]
      : [],
    notes: isFirst ? told : [],
  };
}
