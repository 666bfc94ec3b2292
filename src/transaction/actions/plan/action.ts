// What an action is. An action only plans and fills; the engine alone writes the journal, makes and names
// files, and moves the table. So every action is crash-safe in the same way, and a new one is one module
// and one row in actions/index.ts.
//
// The contract
// - plan validates, names every file and every table change, and changes nothing. It may refuse.
// - A plan may change existing images in place, into redo logs, and have fences raised: those that the entries of its
//   frozen devices name. The engine locks the images as a writer's, and writes.
// - fillFiles writes the content of the new files, which are empty, private and not yet named. It may refuse.
// - After the commit mark no code of an action runs.

import type {
  DeviceEntry,
  DeviceTable,
  GivenUp,
  Renaming,
  RoomForNames,
  SnapshotReads,
} from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import type { Chain, GateOptions, ImageFormat, OpenedImage } from "../../../format/index.ts";
import type { FileStat, Storage, StorageFile } from "../../../storage/index.ts";
import type { HowToOpen } from "../../images/opened-images.ts";
import type { ImageAccess } from "../../images/access.ts";
import type { OverlaySearch } from "../../images/overlay-search.ts";
import type {
  Copy,
  CopyStep,
  LateStep,
  PlannedReport,
  PlannedSnapshot,
  PlannedStanding,
  PlannedVolume,
  PlanRecord,
  TableChange,
  UpStep,
} from "../../journal/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Note } from "../../notes/notes.ts";
import type { ActionRequest, RunOptions } from "../../requests/request.ts";

export interface PlanContext {
  readonly storage: Storage;
  /** The id of the transaction that the statement joins: fences name it as their owner. */
  readonly transaction: string;
  /** Canonical path of the workspace. */
  readonly root: string;
  /** Whether it is for a dry run: no volume was made. */
  readonly isRehearsal: boolean;
  /** The table as it will be after the statements before this one. */
  readonly table: DeviceTable;
  /** What a folder is; undefined where there is none. Looked at once, however many devices have their images there. */
  statFolder(folder: string): Promise<FileStat | undefined>;
  /** What room that table leaves for names in `devices`, and what this statement has taken of it. */
  readonly room: RoomForNames;
  /** Devices with a copy that was cut off and kept. */
  readUnfinished(): Promise<ReadonlySet<string>>;
  /** An earlier generation, as it was when it was superseded; undefined where the history has none. */
  readGeneration(generation: number): Promise<DeviceTable | undefined>;
  /** Images that the workspace, where it was copied, has from its original. */
  readInherited(): Promise<ReadonlySet<string>>;
  /** What the snapshots of the table keep. */
  readonly snapshots: SnapshotReads;
  /** For what is only told: one search for all statements of a command, until one of them makes or changes files. */
  searchOverlays(): OverlaySearch;
  /** Opens a chain, by a format or by its magic, and keeps it open, for reading, until the command ends; the engine locks its images. */
  openChain(
    path: string,
    format: string | undefined,
    device: string,
    allowPaths?: readonly string[],
    how?: HowToOpen,
  ): Promise<Chain>;
  /** What the statements before this one copy at the commit, by the image that gets it. */
  readonly copiedInto: ReadonlyMap<string, Copy>;
  /** Images that they change when all is copied, and not before. */
  readonly changedLast: ReadonlySet<string>;
  /** Files that they make. */
  readonly madeHere: ReadonlySet<string>;
  /** Snapshots that they take, with the images that these stand on. */
  readonly takenHere: readonly (PlannedSnapshot & {
    readonly images: ReadonlySet<string>;
    /** What each seals of a device, by its name. */
    readonly sealed: ReadonlyMap<string | null, string | null>;
  })[];
  /** Devices of which they have taken snapshots, and given some up that only the commit can name. */
  readonly takenInDoubt: ReadonlySet<string>;
  /** Files that they take away. */
  readonly removedHere: ReadonlySet<string>;
  /** Opens the guest data of an image as the statements before this one will leave it. The caller closes it. */
  openContent(image: string, format: ImageFormat): Promise<OpenedImage>;
  /** For images that are opened while files are filled. */
  readonly gate: GateOptions;
  /** What this device alone may lead to: for what a statement newly leads it to. */
  gateOf(device: string): GateOptions;
  /** The canonical form of a path whose folder exists. isFree: nothing is there. */
  canonicalPath(path: string, device: string, isFree?: boolean): Promise<string>;
}

/** A file to make: its final path, its permission bits, and whom it belongs to where root makes it. */
export interface FileToMake extends ImageAccess {
  readonly path: string;
  /** Whether it is a qcow2 image, whose header tells a change. */
  readonly hasHeader: boolean;
  /** The format of the image at the path, where the file is an overlay over it, which the commit copies into it. */
  readonly copiedInto?: ImageFormat;
}

/** What an action may use while it fills files, which can take hours. */
export interface FillTools {
  /** Aborted by the first interrupt. */
  readonly signal: AbortSignal | undefined;
  readonly onProgress: RunOptions["onProgress"];
  readonly throttle: RunOptions["throttle"];
  /** Whether the command commits what it makes, and not a later one. */
  readonly commitsAlone: boolean;
  /** Adds to what is said of a device's action: what was found out only while the files were filled. */
  note(device: string, note: Note): void;
  /** Whether the file of this index was made just now, and holds nothing. */
  isFresh(index: number): boolean;
  /** How far the file of this index had come when its making was cut off; undefined: nothing of it counts. */
  resumeAt(index: number): number | undefined;
  /** Whether it is time to keep how far files have come. */
  isMarkDue(index: number): boolean;
  /** Keeps, durably, how far a file has come. All below the offset is in it, and flushed. */
  keepMark(index: number, offset: number): Promise<void>;
}

/** How long a copy goes on before how far it has come is kept. Each time costs a flush. */
export const MARK_EVERY_MS = 5000;

/** How one part of filling the files tells how far it is. Undefined where nobody listens. */
export function progressOf(
  { onProgress }: Pick<FillTools, "onProgress">,
  part: string,
): ((doneBytes: number, totalBytes: number) => void) | undefined {
  return (
    onProgress &&
    ((doneBytes, totalBytes) => {
      onProgress(part, doneBytes, totalBytes);
    })
  );
}

export interface Plan extends Pick<PlanRecord, "devices" | "reports" | "changes" | "allowPaths"> {
  readonly filesToMake: readonly FileToMake[];
  /** Writes filesToMake; the files are in the same order. */
  fillFiles(files: readonly StorageFile[], tools: FillTools): Promise<void>;
  /** Changes of existing images in place, each image once. Each is in one of the chains. */
  readonly redo?: readonly ImageChange[];
  /** Content that the commit copies between images of the chains, after its mark. */
  readonly copies?: readonly PlannedCopyStep[];
  /** Changes that images get when all is copied into them. Each is in one of the chains. */
  readonly late?: readonly Omit<LateStep, "log">[];
  /** Images of the chains that go at the end, with their data files. */
  readonly removes?: PlanRecord["removes"];
  /** What is kept of the devices that it moves on. Default: nothing. */
  readonly snapshot?: PlannedSnapshot;
  /** What its devices give up of snapshots that keep them. Default: nothing. */
  readonly givesUp?: readonly GivenUp[];
  /** Devices that get other names, in order. Its changes have the devices by the new ones. Default: none. */
  readonly renames?: readonly Renaming[];
  /** Where an undo or a redo goes to. */
  readonly standing?: PlannedStanding;
  /** Copies alone: where a source has changed by the commit, they are brought in sync then. Default: false. */
  readonly renewable?: boolean;
  /** Chains that must not change before the commit, with the device they are opened for. */
  readonly chains: readonly { readonly device: string; readonly chain: Chain }[];
}

/** What others ask an action, so that they need not know its name. */
export interface Traits {
  /** How results say it of a device; the noun where it is prepared, undone or would be undone. */
  readonly saying: { readonly noun: string; readonly done: string; readonly planned: string };
  /**
   * The command that takes it back, without its first word; DEVICES stands for their names. `nothing`: no command does.
   * Left out: it depends on what was there before.
   */
  readonly takenBackBy?: "undo" | "redo" | "freeze DEVICES" | "unfreeze DEVICES" | "nothing";
  /** Done where there is nothing to do, without a generation. */
  readonly mayDoNothing?: boolean;
  /** A copy of its own that was cut off is kept, and the same request goes on with it. */
  readonly isResumable?: boolean;
  /** Nobody goes on with an unfinished copy, or with what is still to be copied into a mirror, afterwards. */
  readonly endsCopies?: boolean;
  /** For plans that are renewable. */
  readonly renewal?: Renewal;
}

/** How copies are brought in sync once more where their sources have changed by the commit. */
interface Renewal {
  /** Whether the device goes over to its copy: that is taken back first, and done again at the end. */
  readonly isMove: boolean;
  /** The copy, in an entry as the statement makes it. Default: its mirror. */
  copyIn?(this: void, after: DeviceEntry): string | undefined;
  /** What does the same for these devices anew, on the table as it is by then. */
  requests(devices: readonly string[], changes: readonly TableChange[], table: DeviceTable): ActionRequest[];
}

export interface Action<Request> extends Traits {
  /** Devices whose mirrors are read back and compared once they were merged into. */
  verifies?(request: Request): readonly string[];
  /** Volumes that are to be made before it is planned, and the request that names them. Undefined: none. */
  volumes?(request: Request, context: PlanContext): Promise<VolumesWanted | undefined>;
  plan(request: Request, context: PlanContext): Promise<Plan>;
}

export interface VolumesWanted {
  readonly volumes: readonly PlannedVolume[];
  /** As it is to be planned then. */
  readonly request: ActionRequest;
}

/** A copy step before its redo log has a name. */
export type PlannedCopyStep = Omit<CopyStep, "up"> & { readonly up?: Omit<UpStep, "log"> };

/** What plans have in common when they make no files. */
export const MAKES_NO_FILES = {
  filesToMake: [],
  fillFiles: (): Promise<void> => Promise.reject(new Error("this action makes no files")),
} as const;

interface PlannedDevice extends Required<Pick<Plan, "redo">> {
  readonly report: PlannedReport;
  readonly change: TableChange;
  /** Undefined where it can't be opened. */
  readonly chain: Plan["chains"][number] | undefined;
}

/** The plan of an action that does the same to each device, one after the other, and makes no files. */
export async function planEach(
  devices: readonly string[],
  planOne: (device: string) => Promise<PlannedDevice>,
): Promise<Plan> {
  assertNamedOnce(devices);
  const planned: PlannedDevice[] = [];
  for (const device of devices) planned.push(await planOne(device));
  return {
    ...MAKES_NO_FILES,
    devices,
    reports: planned.map(({ report }) => report),
    changes: planned.map(({ change }) => change),
    allowPaths: [],
    // A fence that nobody knows of may be in the chains of several.
    redo: [...new Map(planned.flatMap(({ redo }) => redo.map((one) => [one.link.path, one]))).values()],
    chains: planned.flatMap(({ chain }) => chain ?? []),
  };
}

/** E_DUPLICATE where a command names a device twice. */
export function assertNamedOnce(devices: readonly string[]): void {
  const twice = devices.find((device, index) => devices.indexOf(device) < index);
  if (twice === undefined) return;
  throw new ImgtxError("E_DUPLICATE", `'${twice}' is named twice`, {
    device: twice,
    hint: "name each device once",
  });
}

/** E_DUPLICATE where a command would make, or take, one file for two devices. */
export function assertTargetsDiffer(
  targets: readonly { readonly device: string; readonly path: string }[],
): void {
  const owners = new Map<string, string>();
  for (const { device, path } of targets) {
    const other = owners.get(path);
    if (other !== undefined) {
      throw new ImgtxError("E_DUPLICATE", `'${other}' has the same target`, {
        device,
        image: path,
        hint: "give each device a file of its own",
      });
    }
    owners.set(path, device);
  }
}
