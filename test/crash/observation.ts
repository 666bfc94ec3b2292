// What a user can tell of a workspace and of the files around it, as text with one fact a line, so that two
// states are equal when their texts are. Both rigs use it, on a simulated tree and on a real folder.
//
// Ids, times and inodes of files that the scenario made are left out: they differ from run to run. Files
// that were there before keep their inode, so theirs is a fact.

import { guestDigest, openGuest, type ImageBytes } from "../helpers/guest-content.ts";
import { structureProblems } from "../helpers/qcow2-structure.ts";
import { BadState } from "./subject.ts";

export interface FolderEntry {
  /** Absolute. */
  readonly path: string;
  readonly kind: "file" | "folder" | "symlink";
  readonly inode: string;
  readonly mode: number;
  /** Of a file: a digest of its bytes. Of a link: where it points. */
  readonly content: string;
}

/** A tree of files that can be looked at without the program under test. */
export interface FolderView {
  /** Everything, in the order of the paths. */
  entries(): readonly FolderEntry[];
  open(path: string): ImageBytes;
  /** Undefined where the path leads nowhere. */
  realPath(path: string): string | undefined;
}

export interface WorkspacePlace {
  readonly workspace: string;
  /** Absolute paths of the files that were there before the scenario began. */
  readonly original: ReadonlySet<string>;
}

interface DeviceAnswer {
  readonly name: string;
  readonly image: string;
  readonly format: string;
  readonly "virtual-size": number | null;
  readonly chain: readonly { readonly image: string; readonly format: string }[];
  readonly frozen: boolean;
  readonly transaction: string | null;
  readonly problem: string | null;
}

interface TransactionAnswer {
  readonly name: string | null;
  readonly state: string;
  readonly "on-error": string;
  readonly devices: readonly string[];
  readonly actions: readonly {
    readonly kind: string;
    readonly device: string | null;
    readonly after: string | null;
  }[];
  readonly savepoints: readonly string[];
}

/** What `device list --json`, `history --json` and `txn status --json` printed; undefined where there is no workspace yet. */
export interface Answers {
  readonly devices: string;
  /** Of `history --json`. */
  readonly history: string;
  readonly transactions: string;
}

interface GenerationAnswer {
  readonly generation: number;
  readonly summary: string;
  readonly devices: readonly { readonly name: string; readonly image: string }[];
}

const OWN_FOLDER = ".imgtx";
const VIEW = "devices";

export function describeWorkspace(
  view: FolderView,
  place: WorkspacePlace,
  answers: Answers | undefined,
): string {
  const lines = describeFiles(view, place);
  if (!answers) return ["no workspace", ...lines].join("\n");
  const { generation, devices } = JSON.parse(answers.devices) as {
    generation: number;
    devices: DeviceAnswer[];
  };
  const { transactions } = JSON.parse(answers.transactions) as { transactions: TransactionAnswer[] };
  const { generations } = JSON.parse(answers.history) as { generations: GenerationAnswer[] };
  return [
    `generation ${generation}`,
    ...generations.map(describeGeneration),
    ...devices.flatMap((device) => describeDevice(view, device)),
    ...describeView(view, place, devices),
    ...transactions.map(describeTransaction).sort(),
    ...lines,
  ].join("\n");
}

/** The files outside the program's own folder, with the names of the devices' view left to describeView. */
export function describeFiles(view: FolderView, place: WorkspacePlace): string[] {
  const own = `${place.workspace}/${OWN_FOLDER}`;
  return view
    .entries()
    .filter(
      ({ path }) => path !== own && !path.startsWith(`${own}/`) && path !== `${place.workspace}/${VIEW}`,
    )
    .map(({ path, kind, mode, inode, content }) => {
      const identity = place.original.has(path) ? ` inode ${inode}` : "";
      return `${kind} ${path} mode ${mode.toString(8)} ${content}${identity}`;
    });
}

function describeDevice(view: FolderView, device: DeviceAnswer): string[] {
  const { name, image, format, chain } = device;
  if (device.problem !== null) throw new BadState(`${name}: ${device.problem}`);
  for (const element of chain) {
    if (element.format !== "qcow2") continue;
    const problems = structureProblems(view.open(element.image), element.image);
    if (problems.length > 0) throw new BadState(`${element.image}: ${problems.join("; ")}`);
  }
  const guest = openGuest((path) => view.open(path), image, format);
  if (guest.sizeBytes !== device["virtual-size"]) {
    throw new BadState(`${name}: ${device["virtual-size"]} bytes listed, ${guest.sizeBytes} read`);
  }
  const images = chain.map((element) => `${element.image} (${element.format})`).join(" < ");
  const held = device.transaction === null ? "free" : "in a transaction";
  return [
    `device ${name}: ${images}, ${held}, ${device.frozen ? "frozen" : "not frozen"}`,
    `guest of ${name}: ${guest.sizeBytes} bytes, ${guestDigest(guest)}`,
  ];
}

function describeView(view: FolderView, place: WorkspacePlace, devices: readonly DeviceAnswer[]): string[] {
  return devices.map(({ name, image }) => {
    const shown = view.realPath(`${place.workspace}/${VIEW}/${name}`);
    if (shown !== view.realPath(image)) throw new BadState(`${VIEW}/${name} shows ${shown}, not ${image}`);
    return `view of ${name}: ${shown}`;
  });
}

function describeGeneration({ generation, summary, devices }: GenerationAnswer): string {
  const images = devices.map(({ name, image }) => `${name} ${image}`);
  return `history ${generation}: ${summary}: ${images.join(", ")}`;
}

function describeTransaction(transaction: TransactionAnswer): string {
  const actions = transaction.actions.map(({ kind, device, after }) => `${kind} ${device} -> ${after}`);
  const { name, state, devices, savepoints } = transaction;
  return `transaction ${name ?? "without a name"}: ${state}, on error ${transaction["on-error"]}, devices ${devices.join(" ")}, actions [${actions.join("; ")}], savepoints [${savepoints.join(" ")}]`;
}

/** Of what describeWorkspace says, the devices with their chains and content alone. */
export function disksIn(observed: string): string {
  return observed
    .split("\n")
    .filter((line) => /^(generation|device|guest) /.test(line))
    .map((line) => line.replace(", in a transaction", ", free"))
    .join("\n");
}
