// mirror: copies devices, each into a new image, or brings the mirrors that they have in line. The copies are
// made side by side. The devices themselves are only read.

import { posix } from "node:path";
import { type ChainEntry, type DeviceEntry, type MirrorEntry, requireDevice } from "../../device/index.ts";
import { ImgtxError, settleAll } from "../../errors/index.ts";
import {
  type Chain,
  type ChainLink,
  cloneInto,
  type CopyRequest,
  fillImage,
  type Image,
  imageOf,
  type ImageFormat,
  type ImagePlan,
  makeRelativeName,
  parseImageFormat,
  planImage,
  settlePartial,
  writeImage,
} from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import {
  type Action,
  assertNamedOnce,
  type FileToMake,
  type FillTools,
  MAKES_NO_FILES,
  type PlanContext,
} from "../action.ts";
import { activeLayer, chainEntriesOf, NOT_MADE_YET } from "../chain-entry.ts";
import { accessLike, findMissingParent, type PlannedCopy, planResync, verifyCopy } from "../mirroring.ts";
import { targetExists } from "../new-overlay.ts";
import type { ActionReport, MirrorCancelRequest, MirrorRequest, MirrorTarget } from "../request.ts";

interface PlannedTarget extends PlannedCopy {
  readonly entry: DeviceEntry;
  readonly report: ActionReport;
}

export const mirror: Action<MirrorRequest> = {
  async plan({ targets }, context) {
    assertNamedOnce(targets.map(({ device }) => device));
    const planned: PlannedTarget[] = [];
    for (const target of targets) planned.push(await planTarget(target, context));
    assertPathsDiffer(planned);
    return {
      devices: targets.map(({ device }) => device),
      reports: planned.map(({ report }) => report),
      changes: planned.flatMap(({ entry, mirror: copy }) =>
        entry.mirror === copy ? [] : [{ device: entry.name, after: { ...entry, mirror: copy } }],
      ),
      allowPaths: [],
      filesToMake: planned.flatMap(({ filesToMake }) => filesToMake),
      async fillFiles(files, tools) {
        let first = 0;
        const fills = planned.map(async (copy) => {
          const start = first;
          first += copy.filesToMake.length;
          if (first > start) await copy.fillFiles(files.slice(start, first), toolsFrom(start, tools));
        });
        await settleAll(fills);
      },
      chains: planned.flatMap(({ entry, chains }) => chains.map((chain) => ({ device: entry.name, chain }))),
    };
  },
};

/** The same for files that are a part of all, from an index on. */
function toolsFrom(start: number, tools: FillTools): FillTools {
  return {
    ...tools,
    resumeAt: (index) => tools.resumeAt(start + index),
    isMarkDue: (index) => tools.isMarkDue(start + index),
    keepMark: async (index, offset) => await tools.keepMark(start + index, offset),
  };
}

export const mirrorCancel: Action<MirrorCancelRequest> = {
  plan({ devices }, context) {
    assertNamedOnce(devices);
    const entries = devices.map((device) => requireDevice(context.table, device));
    return Promise.resolve({
      ...MAKES_NO_FILES,
      devices,
      reports: entries.map((entry) => cancelReport(entry, context.unfinished.has(entry.name))),
      changes: entries.flatMap((entry) =>
        entry.mirror ? [{ device: entry.name, after: { ...entry, mirror: null } }] : [],
      ),
      allowPaths: [],
      chains: [],
    });
  },
};

function cancelReport(entry: DeviceEntry, isUnfinished: boolean): ActionReport {
  const { name: device, image, format } = entry;
  const kept = entry.mirror ?? (isUnfinished ? undefined : requireMirror(entry));
  return {
    kind: "mirror-cancel",
    device,
    before: image,
    after: image,
    format,
    files: [],
    notes: [
      ...(isUnfinished ? ["its unfinished copy is removed"] : []),
      ...(kept ? [`${kept.image} stays as it is, and is the mirror of '${device}' no more`] : []),
    ],
  };
}

function requireMirror({ name: device, image, mirror: present }: DeviceEntry): MirrorEntry {
  if (present) return present;
  throw new ImgtxError("E_REFUSED", "it has no mirror", {
    device,
    image,
    hint: `make one with \`imgtx mirror ${device} FILE\``,
  });
}

async function planTarget(target: MirrorTarget, context: PlanContext): Promise<PlannedTarget> {
  const { device } = target;
  const entry = requireDevice(context.table, device);
  const path =
    target.file === undefined ? requireMirror(entry).image : await context.canonicalPath(target.file, device);
  const copy = await planCopy(entry, target, path, context);
  return {
    ...copy,
    entry,
    report: {
      kind: "mirror",
      device,
      before: entry.image,
      after: entry.image,
      format: entry.format,
      files: copy.filesToMake.map((file) => ({
        path: file.path,
        change: file.mergesAs === undefined ? ("create" as const) : ("change" as const),
      })),
      notes: copy.notes,
    },
  };
}

async function planCopy(
  entry: DeviceEntry,
  target: MirrorTarget,
  path: string,
  context: PlanContext,
): Promise<PlannedCopy> {
  const missing = entry.mirror ? findMissingParent(entry.mirror) : undefined;
  const isMirror = entry.mirror?.image === path;
  if (entry.mirror && missing && (isMirror || missing.image === path)) {
    return await planParent(entry, entry.mirror, missing, { target, context });
  }
  const present = await context.openChain(entry.image, entry.format, target.device);
  if (isMirror) return await planSync(entry, target, present, context);
  return await planNew(entry, target, path, { present, context });
}

/**
 * What the twin of a migration stands on: a copy of what the device had when the migration began. Only that is
 * opened: a guest may go on writing to what lies above.
 */
async function planParent(
  { chain }: DeviceEntry,
  twin: MirrorEntry,
  missing: ChainEntry,
  { target, context }: { target: MirrorTarget; context: PlanContext },
): Promise<PlannedCopy> {
  const { device } = target;
  const source = chain.find(({ image }) => image === twin.source[1]?.image);
  if (source === undefined || (target.format !== undefined && target.format !== missing.format)) {
    throw new ImgtxError(
      "E_REFUSED",
      source === undefined
        ? `the chain that its migration began with is not in use any more`
        : `${twin.image} takes it for ${missing.format}, not ${target.format}`,
      {
        device,
        image: missing.image,
        hint:
          source === undefined
            ? `\`imgtx mirror --cancel ${device}\` forgets the migration; then begin it again`
            : "leave --format out",
      },
    );
  }
  const parent = await context.openChain(source.image, source.format, device);
  const copy = await settleCopy({ ...target, format: missing.format }, missing.image, parent, context);
  const fresh = await planFresh(copy, target, parent, context);
  const [own] = twin.chain;
  const [made, ...below] = fresh.entries;
  if (!own || !made) throw new Error("a twin stands on an image");
  return {
    ...fresh,
    mirror: { ...twin, chain: [own, { ...made, name: missing.name }, ...below] },
    chains: [parent],
    notes: [
      `${twin.image} stands on it; \`imgtx reopen ${device} ${twin.image}\` brings it in line, and changes over`,
    ],
  };
}

async function planSync(
  entry: DeviceEntry,
  target: MirrorTarget,
  present: Chain,
  context: PlanContext,
): Promise<PlannedCopy> {
  const { format, sync, image } = requireMirror(entry);
  const other =
    target.format !== undefined && target.format !== format
      ? `its format is ${format}`
      : target.sync !== undefined && target.sync !== sync
        ? `it was made with --sync ${sync}`
        : undefined;
  if (other !== undefined) {
    throw new ImgtxError("E_REFUSED", `it is the mirror of '${entry.name}' already, and ${other}`, {
      device: entry.name,
      image,
      hint: `leave that option out to bring it in line, or forget it with \`imgtx mirror --cancel ${entry.name}\``,
    });
  }
  return (await planResync(entry, present, context, target)).copy;
}

/** A copy that is not there yet, on what it will stand on. */
interface NewCopy {
  readonly path: string;
  readonly format: ImageFormat;
  readonly sync: MirrorEntry["sync"];
  readonly backing: { readonly depth: number; readonly link: ChainLink; readonly name: string } | undefined;
  readonly plan: ImagePlan;
  readonly dataFile: string | undefined;
}

async function planNew(
  entry: DeviceEntry,
  target: MirrorTarget,
  path: string,
  { present, context }: { present: Chain; context: PlanContext },
): Promise<PlannedCopy> {
  const { device } = target;
  if (entry.mirror) {
    throw new ImgtxError("E_REFUSED", `it has a mirror already, ${entry.mirror.image}`, {
      device,
      image: path,
      hint: `forget that one first with \`imgtx mirror --cancel ${device}\``,
    });
  }
  const copy = await settleCopy(target, path, present, context);
  if (target.reuse && (await context.storage.statLink(path))) {
    return await planReuse(entry, copy, { present, context, target });
  }
  const fresh = await planFresh(copy, target, present, context);
  return {
    ...fresh,
    mirror: {
      image: path,
      format: copy.format,
      sync: copy.sync,
      chain: fresh.entries,
      source: chainEntriesOf(present),
      bitmap: null,
    },
    chains: [present],
    notes: present.links.flatMap((link) => link.warnings),
  };
}

/** Files that nobody has yet, and the chain of what they will be. */
async function planFresh(
  copy: NewCopy,
  target: MirrorTarget,
  source: Chain,
  context: PlanContext,
): Promise<Pick<PlannedCopy, "filesToMake" | "fillFiles"> & { readonly entries: readonly ChainEntry[] }> {
  const { path, format, dataFile } = copy;
  for (const file of dataFile === undefined ? [path] : [path, dataFile]) {
    if (!(await context.storage.statLink(file))) continue;
    throw targetExists(
      target.device,
      file,
      "; with --reuse an image of the right size is compared and brought in line",
    );
  }
  const made = { image: path, format, name: null, fingerprint: NOT_MADE_YET };
  const access = accessLike(activeLayer(source));
  const files: FileToMake[] = [{ ...access, path, hasHeader: format === "qcow2" }];
  if (dataFile !== undefined) files.push({ ...access, path: dataFile, hasHeader: false });
  return {
    entries: [
      { ...made, dataFile: dataFile === undefined ? null : { image: dataFile, fingerprint: NOT_MADE_YET } },
      ...entriesBelow(copy, source),
    ],
    filesToMake: files,
    fillFiles: async (own, tools) => {
      await fillCopy(copy, target, { present: source, context, files: own, tools });
    },
  };
}

function entriesBelow({ backing }: NewCopy, present: Chain): MirrorEntry["chain"] {
  if (!backing) return [];
  return chainEntriesOf(present)
    .slice(backing.depth)
    .map((below, index) => (index === 0 ? { ...below, name: backing.name } : below));
}

async function settleCopy(
  target: MirrorTarget,
  path: string,
  present: Chain,
  context: PlanContext,
): Promise<NewCopy> {
  const { device } = target;
  const top = activeLayer(present);
  const wanted = target.sync ?? "full";
  const depth = wanted === "top" ? 1 : 0;
  const link = wanted === "full" ? undefined : present.links[depth];
  // The active layer of a chain of one is the whole content.
  const sync = link ? wanted : "full";
  const format =
    target.format === undefined ? (link ? "qcow2" : top.format) : parseFormat(target.format, device, path);
  if (link && format === "raw") {
    throw new ImgtxError("E_UNSUPPORTED", `a raw image can't stand on another one, as --sync ${sync} needs`, {
      device,
      image: path,
      hint: "leave --format out, or copy everything with --sync full",
    });
  }
  if (target.compressed && format === "raw") {
    throw new ImgtxError("E_UNSUPPORTED", "a raw image can't be compressed", {
      device,
      image: path,
      hint: "leave --compress out, or say --format qcow2",
    });
  }
  const name =
    link &&
    (target.relative ? await makeRelativeName(context.storage, posix.dirname(path), link.path) : link.path);
  const { dataFileName } = target.options;
  const plan = await planOrExplain(device, path, async () =>
    planImage({
      format,
      virtualSizeBytes: top.virtualSizeBytes,
      options: {
        ...target.options,
        ...(link && { backingFileName: name, backingFormat: link.format }),
      },
    }),
  );
  return {
    path,
    format,
    sync,
    backing: link && name !== undefined ? { depth, link, name } : undefined,
    plan,
    dataFile: dataFileName === undefined ? undefined : await context.canonicalPath(dataFileName, device),
  };
}

function parseFormat(format: string, device: string, image: string): ImageFormat {
  try {
    return parseImageFormat(format);
  } catch (error) {
    throw error instanceof ImgtxError ? error.with({ device, image }) : error;
  }
}

async function planOrExplain(
  device: string,
  image: string,
  plan: () => Promise<ImagePlan>,
): Promise<ImagePlan> {
  try {
    return await plan();
  } catch (error) {
    throw error instanceof ImgtxError ? error.with({ device, image }) : error;
  }
}

interface Copying extends Filling {
  readonly file: StorageFile;
  readonly dataFile: StorageFile | undefined;
  readonly startBytes: number;
}

interface Filling {
  readonly present: Chain;
  readonly context: PlanContext;
  readonly files: readonly StorageFile[];
  readonly tools: FillTools;
}

async function fillCopy(copy: NewCopy, target: MirrorTarget, filling: Filling): Promise<void> {
  const { present, context, files, tools } = filling;
  const [file, dataFile] = files;
  if (!file) throw new Error("a file for the copy was planned");
  const image = imageOf(present);
  const startBytes = await findStart(copy, { ...filling, file, dataFile });
  if (startBytes === undefined) {
    // What a copy that was cut off has left here is of no use.
    for (const one of files) if ((await one.stat()).sizeBytes > 0) await one.truncate(0);
    await writeImage({ file, dataFile }, copy.plan);
  }
  if (copy.sync !== "none") {
    await copyContent(copy, target, image, { ...filling, file, dataFile, startBytes: startBytes ?? 0 });
  }
  if (!target.verify) return;
  const made = { path: file.path, format: copy.format, dataFileAt: dataFile?.path };
  await verifyCopy(image, made, context, tools);
}

/** Where a copy that was cut off goes on; undefined where it begins anew. */
async function findStart(
  { format }: NewCopy,
  { context, tools, file, dataFile }: Filling & { file: StorageFile; dataFile: StorageFile | undefined },
): Promise<number | undefined> {
  const mark = tools.resumeAt(0);
  if (mark === undefined || format === "raw") return mark;
  const trusted = dataFile === undefined ? [] : [dataFile.path];
  const gate = { ...context.gate, allowPaths: [...context.gate.allowPaths, ...trusted] };
  const around = { gate, signal: tools.signal };
  const isSound = await settlePartial(context.storage, file.path, { file, dataFile }, around);
  return isSound ? mark : undefined;
}

async function copyContent(
  copy: NewCopy,
  { compressed }: MirrorTarget,
  image: Image,
  { context, tools, file, dataFile, startBytes }: Copying,
): Promise<void> {
  if (startBytes === 0 && (await cloneInto([image], copy.plan, file))) return;
  const request: CopyRequest = {
    compressed,
    sparseBytes: SPARSE_BYTES,
    backingBytes: copy.backing?.link.virtualSizeBytes,
    atOnce: 8,
    inOrder: true,
    inKernel: false,
    signal: tools.signal,
    onProgress: tools.onProgress,
    startBytes,
    checkpoint: {
      isDue: () => tools.isMarkDue(0),
      async reach(offset, target) {
        await target.flush("copied-so-far");
        await tools.keepMark(0, offset);
      },
    },
  };
  await fillImage(
    [image],
    { plan: copy.plan, path: file.path },
    { file, dataFile: dataFile && { path: dataFile.path, file: dataFile } },
    request,
    { storage: context.storage, gate: context.gate },
  );
}

/** Shorter runs of zeros in data are copied as they are, as qemu-img does. */
const SPARSE_BYTES = 4096;

async function planReuse(
  entry: DeviceEntry,
  { path, format, sync }: NewCopy,
  { present, context, target }: { present: Chain; context: PlanContext; target: MirrorTarget },
): Promise<PlannedCopy> {
  const there = await context.openChain(path, target.format ?? format, entry.name);
  const adopted: MirrorEntry = {
    image: path,
    format: activeLayer(there).format,
    sync,
    chain: chainEntriesOf(there),
    // Of nothing that is known: it is compared from end to end.
    source: [],
    bitmap: null,
  };
  assertStandsRight(entry, adopted, present, there);
  return (await planResync({ ...entry, mirror: adopted }, present, context, target)).copy;
}

/** E_REFUSED where an image that is to be reused stands on other images than a new one would. */
function assertStandsRight(
  entry: DeviceEntry,
  { image, sync }: MirrorEntry,
  present: Chain,
  there: Chain,
): void {
  const wanted = sync === "full" ? undefined : present.links[sync === "top" ? 1 : 0];
  const below = there.links[1];
  const isSame =
    wanted === undefined
      ? below === undefined
      : below !== undefined &&
        below.stat.inode === wanted.stat.inode &&
        below.stat.fileSystem === wanted.stat.fileSystem;
  if (isSame) return;
  throw new ImgtxError(
    "E_REFUSED",
    wanted === undefined
      ? `it has a backing file, ${below?.path}, and a full copy stands alone`
      : `its backing image is ${below === undefined ? "none" : below.path}, and has to be ${wanted.path}`,
    { device: entry.name, image, hint: "name a file that does not exist" },
  );
}

function assertPathsDiffer(planned: readonly PlannedTarget[]): void {
  const owners = new Map<string, string>();
  for (const { entry, mirror: copy } of planned) {
    for (const path of [copy.image, copy.chain[0]?.dataFile?.image]) {
      if (path === undefined) continue;
      const other = owners.get(path);
      if (other !== undefined) {
        throw new ImgtxError("E_DUPLICATE", `'${other}' has the same target`, {
          device: entry.name,
          image: path,
          hint: "give each device a file of its own",
        });
      }
      owners.set(path, entry.name);
    }
  }
}
