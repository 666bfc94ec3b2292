// What --fix does: recovery, and changes that lose nothing and that nobody has to decide. What is in a workspace is one
// transaction of that workspace; an image in none is one of its own, with its journal beside it.
//
// Invariant: nothing is changed behind a device's back: an image that a device only stands on is left to its own actions.

import { posix } from "node:path";
import { findDeviceOnFile } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { Storage } from "../../storage/index.ts";
import { closeImageSession, IMAGE_DEVICE, openImageSession } from "../engine/image-session.ts";
import type { ActionRequest, RunOptions } from "../requests/request.ts";
import { assertChangeable, openSession, runActions } from "../session.ts";
import type { Finding, Mend } from "./findings.ts";

/** What came of a finding that --fix has a way for. */
export interface Mended {
  readonly finding: Finding;
  /** What was not done, as a sentence; null: it was, or would be in a dry run. */
  readonly why: string | null;
}

interface MendOptions extends RunOptions {
  readonly startFolder: string;
  readonly safeWorkspaces: readonly string[];
}

type Change = Extract<Mend, { image: string; format: unknown }>;
interface Job {
  readonly finding: Finding;
  readonly change: Change;
}

/** Of the findings that have one. The trouble of one is no other's, but within a transaction. */
export async function mendFindings(
  storage: Storage,
  findings: readonly Finding[],
  options: MendOptions,
): Promise<readonly Mended[]> {
  const done: Mended[] = [];
  const byRoot = new Map<string, (Job & { readonly device: string })[]>();
  const alone: Job[] = [];
  for (const finding of findings) {
    const { mend } = finding;
    if (mend === null) continue;
    if ("recovers" in mend) {
      done.push(...(await attempt([finding], async () => await recoverIn(storage, mend.recovers, options))));
      continue;
    }
    const place = await findPlace(storage, mend, options);
    if (place === undefined) alone.push({ finding, change: mend });
    else if (typeof place === "string") done.push({ finding, why: place });
    else
      byRoot.set(place.root, [
        ...(byRoot.get(place.root) ?? []),
        { finding, change: mend, device: place.device },
      ]);
  }
  for (const [root, jobs] of byRoot) {
    const requests = jobs.map(({ change, device }) => change.requestFor(device));
    done.push(
      ...(await attempt(
        jobs.map(({ finding }) => finding),
        async () => await runIn(storage, root, requests, options),
      )),
    );
  }
  for (const { finding, change } of alone) {
    done.push(...(await attempt([finding], async () => await runAlone(storage, change, options))));
  }
  return done;
}

async function attempt(findings: readonly Finding[], work: () => Promise<void>): Promise<Mended[]> {
  try {
    await work();
    return findings.map((finding) => ({ finding, why: null }));
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL" || error.exitCode >= 130) throw error;
    return findings.map((finding) => ({ finding, why: error.message }));
  }
}

/** Undefined: in no workspace; a sentence: where it must not be changed. */
async function findPlace(
  storage: Storage,
  { image }: Change,
  { startFolder }: MendOptions,
): Promise<{ readonly root: string; readonly device: string } | string | undefined> {
  const stat = await storage.stat(image);
  if (!stat) return "it is gone";
  const real = await storage.realPath(image);
  const folders = [posix.dirname(real), posix.dirname(image), startFolder];
  const found = await findDeviceOnFile(storage, folders, [image, real], stat);
  if (!found) return undefined;
  if (found.isActive) return found;
  return `device ${found.device} of '${found.root}' stands on it: nothing changes it but that device's own actions`;
}

async function recoverIn(storage: Storage, root: string, options: MendOptions): Promise<void> {
  if (options.dryRun) return;
  const place = {
    startFolder: root,
    workspace: root,
    safeWorkspaces: options.safeWorkspaces,
    createHere: false,
  };
  const session = await openSession(storage, { ...options, ...place, caller: "recover" });
  // In a copy nothing is ended.
  await assertChangeable(session);
  const { recovered } = session;
  for (const note of recovered) options.onRecovered?.(note);
  const waiting = recovered.find(({ did }) => did === "waiting");
  if (waiting) throw new ImgtxError("E_UNFINISHED", waiting.text);
}

async function runIn(
  storage: Storage,
  root: string,
  requests: readonly ActionRequest[],
  options: MendOptions,
): Promise<void> {
  const place = { startFolder: options.startFolder, workspace: root, safeWorkspaces: options.safeWorkspaces };
  const session = await openSession(storage, { ...options, ...place, createHere: false });
  await runActions(session, requests, options);
}

async function runAlone(
  storage: Storage,
  { image, format, isAlone, requestFor }: Change,
  options: MendOptions,
): Promise<void> {
  const lowest = await storage.realPath(image);
  const how = { caller: "writer", waiting: options } as const;
  const { safeWorkspaces, allowPaths, startFolder } = options;
  const gate = { allowPaths, currentFolder: startFolder };
  const place = { image: lowest, lowest, format, isAlone, gate, safeWorkspaces };
  const session = await openImageSession(storage, place, how);
  try {
    await runActions(session, [requestFor(IMAGE_DEVICE)], options);
  } finally {
    await closeImageSession(storage, place, how);
  }
}
