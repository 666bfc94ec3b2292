// Changes of an image in place, by file: a transaction of one action. Where the image is a device's own it is the
// device's transaction, in its workspace; else one of the image alone, with the journal beside it.
//
// Invariant: nothing is changed behind a device's back. An image that a device only reads through its chain is refused,
// and so is one that a snapshot keeps, or that the transaction of another workspace is about to change.

import { ImgtxError } from "../../../errors/index.ts";
import {
  findBeside,
  findRedoLogsOn,
  type ImageFormat,
  type OpenedImage,
  placeOfImage,
  shellQuote,
  withWorkspaceNamed,
} from "../../../format/index.ts";
import type { ActionRequest, RunOptions } from "../../../transaction/index.ts";
import type { Engine, Session } from "../../engine.ts";
import { printable } from "../../render/printable.ts";
import { loadEngine, noteRecovered } from "./beside.ts";
import type { ImgInvocation } from "../command.ts";
import { deviceOn, standsOn } from "./guard-target.ts";
import { assertWhole, type ImageName, parseImageName } from "../grammar/image-name.ts";
import { explained, openSource, sourceOptions } from "./images.ts";
import { lockWaiting } from "./lock-waiting.ts";
import { failure } from "../grammar/messages.ts";

const CLOSED: ReadonlySet<string> = new Set(["E_NO_PERMISSION", "E_READ_ONLY"]);

export interface ImageInPlace {
  readonly operand: string;
  /** Real path, or the block device as it is named. */
  readonly image: string;
  readonly format: ImageFormat;
  /** The same of the lowest image that is changed. */
  readonly lowest: string;
  /** Its data file, where it has one. */
  readonly dataFile: string | undefined;
  /** Whether it is opened by itself, whatever it stands on. Default: no. */
  readonly isAlone?: boolean;
  /** Of a raw file the part that the operand means. */
  readonly part?: ImageName["part"];
}

/** What `use` finds in the image as it is now: looked at before anything is planned, without locks. */
export async function lookAtImage<T>(
  invocation: ImgInvocation,
  operand: string,
  use: (image: OpenedImage, place: ImageInPlace) => Promise<T>,
  { isAlone = false, mayBePart = false, mayLackRefcounts = false } = {},
): Promise<T> {
  const options = sourceOptions(invocation);
  const name = parseImageName(operand, options.imageOpts);
  if (!mayBePart) assertWhole(name, operand);
  if (name.backing !== undefined) {
    throw failure(`Could not open '${operand}': imgtx changes an image over its own backing image only`);
  }
  const how = { isToChange: true, backing: !isAlone, mayLackRefcounts };
  const opened = await openSource(invocation, operand, { ...options, ...how });
  const isGuessed = (name.format ?? options.format) === undefined;
  try {
    const [top] = opened.chain.links;
    if (top === undefined) throw new RangeError("a chain without an image");
    if (isGuessed && top.format === "raw") warnOfGuess(invocation, operand);
    const image = await placeOfImage(invocation.context.storage, top.path);
    return await use(opened, {
      operand,
      image,
      lowest: image,
      format: top.format,
      dataFile: top.dataFile?.path,
      isAlone,
      part: name.part,
    });
  } finally {
    await opened.close();
  }
}

/** In qemu-img's words, which are not of imgtx's writes: those know no restriction. */
function warnOfGuess({ program, console, context }: ImgInvocation, operand: string): void {
  const what = `Image format was not specified for '${printable(operand)}' and probing guessed raw.`;
  if (program === "imgtx") {
    console.warning(`${what} -f raw says so`);
    return;
  }
  const lines = [
    "Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.",
    "Specify the 'raw' format explicitly to remove the restrictions.",
  ];
  context.stderr.write([`WARNING: ${what}`, ...lines.map((line) => `         ${line}`), ""].join("\n"));
}

/**
 * Runs the actions on the image, all or none, as on the device that it is, of the workspace given, or as on one of its
 * own. Prints nothing but what it recovers.
 */
export async function changeImage(
  invocation: ImgInvocation,
  place: ImageInPlace,
  requestsFor: (device: string, workspace: string | undefined) => readonly ActionRequest[],
  onRequest?: (index: number | undefined) => void,
): Promise<void> {
  const { context, names } = invocation;
  names.push({ given: place.operand, path: place.image });
  const engine = await loadEngine(context);
  const owner = await findOwner(invocation, place);
  const requests = requestsFor(owner?.device ?? engine.IMAGE_DEVICE, owner?.root);
  const session = await openSession(invocation, engine, place, owner?.root);
  for (const note of session.recovered) noteRecovered(invocation, note);
  const close = async (): Promise<void> => {
    if (owner !== undefined) return;
    await engine.closeImageSession(context.storage, place, howToRecover(invocation));
  };
  try {
    await engine.runActions(session, requests, { ...runOptions(invocation), onRequest });
  } catch (error) {
    await close().catch((cause: unknown) => invocation.console.error(sayLeft(session.root, cause)));
    const told =
      owner === undefined
        ? inItsWorkspace(error, session.root, place, engine)
        : inWorkspaceOf(error, owner.root, context.cwd);
    const isLock = told instanceof ImgtxError && told.lock !== undefined;
    throw isLock ? await explained(invocation, place.operand, () => Promise.reject(told)) : told;
  }
  try {
    await close();
  } catch (cause) {
    throw doneButLeft(session.root, cause);
  }
}

function sayLeft(root: string, cause: unknown): string {
  return `'${root}' is left: ${cause instanceof Error ? cause.message : String(cause)}`;
}

/** The image is what it is to be: a message about the journal's folder alone would have it tried once more. */
function doneButLeft(root: string, cause: unknown): ImgtxError {
  return new ImgtxError("E_UNFINISHED", `the change is committed and durable, but ${sayLeft(root, cause)}`, {
    image: root,
    changed: true,
    hint: "the next imgtx command that opens the image takes it away",
    cause,
  });
}

/** The device whose own image it is. E_FAILED where others stand on it, or keep it, or a transaction elsewhere changes it. */
async function findOwner(
  invocation: ImgInvocation,
  { operand, image, lowest, dataFile }: ImageInPlace,
): Promise<{ readonly device: string; readonly root: string } | undefined> {
  const { storage } = invocation.context;
  const written = new Set([image, lowest, ...(dataFile === undefined ? [] : [dataFile])]);
  for (const path of written) {
    const there = await storage.stat(path);
    const found = there && (await deviceOn(invocation, path, there));
    if (!found) continue;
    if (found.isActive && path === image) return found;
    throw standsOn(operand, path, found, "its own actions change it");
  }
  // One that is ended from here has its logs there, too.
  if (await findBeside(storage, lowest)) return undefined;
  const logs: string[] = [];
  for (const path of written) {
    const stat = await storage.stat(path);
    if (stat) logs.push(...(await findRedoLogsOn(storage, path, stat)));
  }
  const [log] = logs;
  if (log === undefined) return undefined;
  throw new ImgtxError(
    "E_FAILED",
    `${operand}: a transaction of a workspace elsewhere is about to change it`,
    {
      image,
      hint:
        `nothing was changed; commit or abort it there: its changes are in ${shellQuote(log)}, ` +
        "which is to be removed where that transaction is no more",
    },
  );
}

async function openSession(
  invocation: ImgInvocation,
  engine: Engine,
  { image, lowest, format, isAlone = false }: ImageInPlace,
  workspace: string | undefined,
): Promise<Session> {
  const { context, safeWorkspaces, gate } = invocation;
  const { storage, cwd } = context;
  const how = howToRecover(invocation);
  if (workspace !== undefined) {
    const place = { startFolder: cwd, workspace, createHere: false, safeWorkspaces };
    return await engine.openSession(storage, { ...place, ...how.waiting, caller: how.caller });
  }
  const alone = { image, lowest, format, isAlone, gate, safeWorkspaces };
  return await engine.openImageSession(storage, alone, how);
}

function howToRecover(invocation: ImgInvocation) {
  return { caller: "writer", waiting: lockWaiting(invocation) } as const;
}

function runOptions(invocation: ImgInvocation): RunOptions {
  const { console, gate } = invocation;
  return {
    ...lockWaiting(invocation),
    transaction: undefined,
    standalone: true,
    dryRun: false,
    allowPaths: gate.allowPaths,
    onRecovered: (note) => noteRecovered(invocation, note),
    onNotice: (line) => console.error(line),
    onKept: ({ path, why }) => console.error(`left '${path}' as it is: ${why}`),
  };
}

/** The device's workspace is found from its image, also by who is elsewhere. */
function inWorkspaceOf(error: unknown, root: string, cwd: string): unknown {
  if (!(error instanceof ImgtxError) || error.hint === undefined || cwd === root) return error;
  return error.reworded(error.message, { hint: withWorkspaceNamed(error.hint, root) });
}

/**
 * The ways out are commands in the workspace beside the image, which nobody finds from where he is. Who may write to the
 * image and not to its folder is told why that matters.
 */
function inItsWorkspace(
  error: unknown,
  root: string,
  { operand }: ImageInPlace,
  { IMAGE_DEVICE }: Engine,
): unknown {
  if (!(error instanceof ImgtxError)) return error;
  if (error.image === root && CLOSED.has(error.code)) {
    return error.reworded(`the journal of a change lies beside the image: ${error.message}`);
  }
  if (error.hint === undefined) return error;
  const byFile = `\`imgtx img resize ${shellQuote(operand)} `;
  const hint = error.hint
    .replaceAll(`\`imgtx resize ${IMAGE_DEVICE} `, () => byFile)
    .replaceAll(IMAGE_DEVICE, "DEV");
  return error.reworded(error.message, { hint: withWorkspaceNamed(hint, root) });
}
