// An examination: which images there are, what is wrong with them, and what mends it. Reads headers only, unless a check was
// asked for, takes no lock, and changes nothing.
//
//   targets → Census (walk, headers, what they name) → Scene → a function for each family → sorted findings

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { findBeside, identityOf } from "../../format/index.ts";
import type { FileStat, Storage } from "../../storage/index.ts";
import type { OnProgress } from "../requests/request.ts";
import { judgeAccess } from "./access.ts";
import { type Bounds, Census } from "./census.ts";
import { judgeChains } from "./chains.ts";
import { judgeCounts } from "./counts.ts";
import { judgeDisks } from "./disks.ts";
import { CHANGES_IMAGE, type Finding, sortFindings } from "./findings.ts";
import { judgeHeaders, sayUnreadable } from "./headers.ts";
import { judgeNames } from "./names.ts";
import { judgeOrphans } from "./orphans.ts";
import { type Guest, type Scene, whoCallsItRaw } from "./scene.ts";
import { stoppedBy } from "./stopped.ts";
import { judgeGuest, judgeStart } from "./starts.ts";
import { visitWard, type Ward } from "./wards.ts";

export interface GuestDisk {
  readonly path: string;
  /** As its domain says it; undefined: it does not. */
  readonly format: string | undefined;
  readonly isReadOnly: boolean;
}

interface ExaminationRequest {
  /** Absolute paths of files and folders. None: the whole workspace. */
  readonly paths: readonly string[];
  /** Names of devices of the workspace. */
  readonly devices: readonly string[];
  /** What a guest has for its disks, all of them among the paths. */
  readonly disks?: readonly GuestDisk[];
  /** Where a workspace is searched for, and the one that was named. */
  readonly startFolder: string;
  readonly workspace: string | undefined;
  readonly safeWorkspaces: readonly string[];
  readonly bounds: Bounds;
  /** Whether all metadata is read. */
  readonly checks: boolean;
  /** Whether only what keeps a guest from being started on the images is asked for. */
  readonly isForStart?: boolean;
  readonly onProgress?: OnProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Examination {
  /** The workspace that was looked at as a whole, or that has the devices; null: none. */
  readonly root: string | null;
  /** What was read of it on the way. */
  readonly own: Pick<Ward, "status" | "snapshots"> | null;
  /** Worst first. */
  readonly findings: readonly Finding[];
  /** Files that were opened, and those of them that were judged: images that were asked for. */
  readonly opened: number;
  readonly judged: number;
  /** What was not looked at, since there is too much of it: a clause each. */
  readonly left: readonly string[];
  readonly checked: boolean;
}

/** E_NO_WORKSPACE where it needs one, E_NO_DEVICE, E_NOT_FOUND for a path that leads to nothing. */
export async function examine(real: Storage, request: ExaminationRequest): Promise<Examination> {
  const { startFolder, bounds, onProgress, paths } = request;
  const storage = stoppedBy(real, request.signal);
  const onFile = (passed: number, known: number): void =>
    onProgress?.("looking at headers", passed * HEADER_BYTES, known * HEADER_BYTES);
  const census = new Census(storage, { currentFolder: startFolder, bounds, onFile });
  const visit = new Visit(storage, request);
  const own = await visit.own();
  const folders: string[] = [];
  const files: string[] = [];
  const places = await statAll(storage, placesOf(request, own));
  await census.each(places, async ([path, there]) => {
    if (!there && paths.includes(path))
      throw new ImgtxError("E_NOT_FOUND", "nothing is there to be examined", { image: path });
    if (there?.kind === "folder") {
      await census.addFolder(path);
      folders.push(await storage.realPath(path));
    } else {
      await census.addFile(path, { mayBeDevice: true });
      const beside = await findBeside(storage, path);
      if (beside) census.foldersBeside.add(beside.folder);
      if (paths.includes(path)) files.push(path);
    }
  });
  const found = await visit.found([...census.workspaces], own);
  const wards = [...(own ? [own] : []), ...found];
  wards.push(...(await visit.above(files, wards)));
  await census.follow();
  const given = census.patients.filter(({ isGiven }) => isGiven);
  const images = given.filter(
    (one) => one.image.header !== undefined && whoCallsItRaw(one, wards) === undefined,
  );
  const guest = guestOf(places, request);
  const scene: Scene = {
    storage,
    currentFolder: startFolder,
    census,
    given,
    images,
    guest,
    wards,
    folders,
  };
  const doubts = [...visit.unread, ...census.failures.map(sayFailure)];
  const findings = request.isForStart
    ? [...doubts, ...(await judgeStart(scene))]
    : [...visit.findings, ...doubts, ...(await judgeAll(scene, request))];
  findings.push(...(await judgeGuest(scene, { isForStart: request.isForStart === true })));
  return {
    root: own?.root ?? null,
    own: own ?? null,
    findings: sortFindings(findings.map((one) => leaveToDevice(scene, one))),
    opened: census.opened,
    judged: given.filter(({ image, overlays }) => image.probed !== undefined || overlays.length > 0).length,
    left: census.left,
    checked: request.checks,
  };
}

function sayFailure({ path, error }: Census["failures"][number]): Finding {
  return sayUnreadable(path, `it can't be looked into: ${error.message}`, error.code);
}

async function judgeAll(scene: Scene, request: ExaminationRequest): Promise<Finding[]> {
  return [
    // A check knows.
    ...(await judgeHeaders(scene)).filter(({ code }) => !(request.checks && code === "perhaps-cut-off")),
    ...(await judgeNames(scene)),
    ...judgeChains(scene),
    ...(await judgeAccess(scene)),
    ...(await judgeDisks(scene)),
    ...(await judgeOrphans(scene)),
    ...(request.checks ? await judgeCounts(scene, request) : []),
  ];
}

/** Block devices first: a folder may have links to them, which are not followed there. */
async function statAll(
  storage: Storage,
  paths: readonly string[],
): Promise<(readonly [string, FileStat | undefined])[]> {
  const all: (readonly [string, FileStat | undefined])[] = [];
  for (const path of paths) all.push([path, await storage.stat(path)]);
  const isDevice = ([, there]: (typeof all)[number]): boolean => there?.kind === "device";
  return [...all.filter(isDevice), ...all.filter((one) => !isDevice(one))];
}

/** What the guest has by another name to write to is not read-only. */
function guestOf(
  places: Awaited<ReturnType<typeof statAll>>,
  { disks, isForStart }: ExaminationRequest,
): Guest | undefined {
  if (disks === undefined && !isForStart) return undefined;
  const identities = new Map(places.flatMap(([path, there]) => (there ? [[path, identityOf(there)]] : [])));
  const found = (disks ?? []).flatMap(({ path, ...disk }) => {
    const identity = identities.get(path);
    return identity === undefined ? [] : [{ ...disk, identity }];
  });
  const written = new Set(found.filter((one) => !one.isReadOnly).map(({ identity }) => identity));
  return {
    readOnly: new Set(found.map(({ identity }) => identity).filter((one) => !written.has(one))),
    formats: new Map(found.map(({ identity, format }) => [identity, format])),
  };
}

/** What a device stands on, or a snapshot keeps, no command of images changes; nor what is on a block device. */
function leaveToDevice({ census, wards }: Scene, one: Finding): Finding {
  const stat = census.at(one.path)?.image.stat;
  if (!CHANGES_IMAGE.has(one.code) || one.command === null || stat === undefined) return one;
  if (stat.kind === "device") {
    const text = `${one.text}; on a block device no image is changed in place yet`;
    return { ...one, text, command: null, mend: null };
  }
  const identity = identityOf(stat);
  const keeper = wards.find(({ active, kept }) => kept.has(identity) && !active.has(identity));
  if (!keeper) return one;
  const text = `${one.text}; nothing changes it but the devices and snapshots of '${keeper.root}' that it is kept for`;
  return { ...one, text, command: null, mend: null };
}

const HEADER_BYTES = 4096;

function placesOf({ paths, devices }: ExaminationRequest, own: Ward | undefined): readonly string[] {
  if (!own) return paths;
  if (paths.length === 0 && devices.length === 0) return [own.root, ...own.files];
  const chains = devices.flatMap((name) => {
    const entry = own.entries.find((one) => one.name === name);
    if (entry) return entry.chain.map(({ image }) => image);
    throw new ImgtxError("E_NO_DEVICE", `there is neither a device nor a file '${name}'`, {
      hint: "`imgtx device list` lists the devices; a file of that name is meant by ./NAME",
    });
  });
  return [...paths, ...chains];
}

/** The workspaces that count: the caller's own, and those in the folders that are examined. */
class Visit {
  readonly findings: Finding[] = [];
  /** Workspaces that could hold what a guest is to be started on, and can't be read. */
  readonly unread: Finding[] = [];
  readonly #storage: Storage;
  readonly #request: ExaminationRequest;

  constructor(storage: Storage, request: ExaminationRequest) {
    this.#storage = storage;
    this.#request = request;
  }

  /** Of paths alone it is a help, and what is wrong with it is not asked for. */
  async own(): Promise<Ward | undefined> {
    const { startFolder, workspace, safeWorkspaces, paths, devices } = this.#request;
    const isWhole = paths.length === 0 && devices.length === 0;
    try {
      const { ward, findings } = await visitWard(this.#storage, { startFolder, workspace, safeWorkspaces });
      if (!ward) this.#doubt(findings);
      const isAsked = isWhole || paths.includes(ward?.root ?? "");
      const isAbout = ({ device }: Finding): boolean => device === null || devices.includes(device);
      if (isAsked) this.findings.push(...findings);
      else if (devices.length > 0) this.findings.push(...findings.filter(isAbout));
      return ward;
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      const isNeeded =
        this.#request.isForStart && (workspace !== undefined || error.code !== "E_NO_WORKSPACE");
      if (isNeeded) throw error;
      if (paths.length > 0 && devices.length === 0) return undefined;
      if (error.code !== "E_NO_WORKSPACE") throw error;
      const [device] = devices;
      throw error.reworded(
        device === undefined
          ? error.message
          : `there is no file '${device}', and ${error.message} that has devices`,
        { hint: "name an image or a folder: `imgtx doctor .` looks at this one" },
      );
    }
  }

  async found(roots: readonly string[], own: Ward | undefined): Promise<readonly Ward[]> {
    const wards: Ward[] = [];
    for (const root of roots) {
      if ((await this.#storage.realPath(root)) === own?.root) continue;
      const { ward, findings } = await this.#visit(root);
      this.findings.push(...findings);
      if (ward) wards.push(ward);
    }
    return wards;
  }

  /** Those that the files lie in, which were not visited yet: of what is wrong with them, what is about these files. */
  async above(files: readonly string[], visited: readonly Ward[]): Promise<readonly Ward[]> {
    const wards: Ward[] = [];
    for (const file of files) {
      const real = await this.#storage.realPath(file);
      const root = await this.#findRoot(posix.dirname(real));
      const known = [...visited, ...wards].find((one) => one.root === root);
      const visit = known ?? (root === undefined ? undefined : await this.#visit(root));
      const ward = visit && "ward" in visit ? visit.ward : visit;
      if (visit && "ward" in visit && !ward) this.#doubt(visit.findings);
      if (!ward) continue;
      if (!known) wards.push(ward);
      const own = ward.entries
        .filter(({ chain }) => chain.some(({ image }) => image === real))
        .map(({ name }) => name);
      this.findings.push(...ward.findings.filter(({ device }) => device !== null && own.includes(device)));
    }
    return wards;
  }

  #doubt(findings: readonly Finding[]): void {
    if (this.#request.isForStart) this.unread.push(...findings);
  }

  /** What lies in a folder may have been a workspace until it was moved. */
  async #visit(root: string): ReturnType<typeof visitWard> {
    const { safeWorkspaces } = this.#request;
    try {
      return await visitWard(this.#storage, { startFolder: root, workspace: root, safeWorkspaces });
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code !== "E_NO_WORKSPACE") throw error;
      return { ward: undefined, findings: [] };
    }
  }

  async #findRoot(folder: string): Promise<string | undefined> {
    for (let at = folder; ; at = posix.dirname(at)) {
      if ((await this.#storage.statLink(posix.join(at, ".imgtx")))?.kind === "folder") return at;
      if (at === posix.dirname(at)) return undefined;
    }
  }
}
