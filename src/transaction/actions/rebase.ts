// rebase: a device's active layer is put on another backing image, at the commit, and shows what it showed. Only where the
// two chains differ is anything copied into it. Unsafe, its header changes and nothing else.

import type { DeviceEntry } from "../../device/index.ts";
import {
  changeBacking,
  type ChainLink,
  findCutOffImages,
  isProtocolName,
  judgeBacking,
  type StoredBacking,
  parseImageFormat,
} from "../../format/index.ts";
import { type Action, MAKES_NO_FILES, type Plan, type PlanContext } from "./plan/action.ts";
import { findFences } from "./plan/fencing.ts";
import {
  assertMayStand,
  entryOnNew,
  findStanding,
  joinStandings,
  nameFor,
  type NewStanding,
  noteOnStanding,
  planNewStanding,
  reportOf,
  type Standing,
} from "./plan/new-backing.ts";
import { assertQemuOpens } from "../images/openable.ts";
import type { Note } from "../notes/notes.ts";
import type { RebaseRequest } from "../requests/request.ts";

export const rebase: Action<RebaseRequest> = {
  saying: { noun: "rebase", done: "rebased", planned: "would be rebased" },
  mayDoNothing: true,
  async plan(request, context): Promise<Plan> {
    const { device } = request;
    // What it stands on by now may have been moved: that is what it is for.
    const standing = await findStanding(device, context, { isAlone: request.isUnsafe });
    const missing = await findMissing(request, context);
    if (missing) {
      judgeBacking(standing.top, missing);
      return planNameAlone(
        standing,
        { below: [], name: undefined, notes: [] },
        { backing: missing, path: request.onto, chains: [{ device, chain: standing.chain }] },
      );
    }
    const path = await context.canonicalPath(request.onto, device);
    const onto = await context.openChain(path, request.format, device);
    await assertQemuOpens(device, onto);
    const name = await nameFor(
      context,
      standing.top,
      path,
      request.isRelative ?? standsRelative(standing.top),
    );
    const chains = [standing.chain, onto].map((chain) => ({ device, chain }));
    if (isThere(standing.top, onto.links, name)) {
      const report = reportOf("rebase", standing, [noteOnStanding(onto.links, true)], false);
      return {
        ...MAKES_NO_FILES,
        ...joinStandings([device], [{ report, change: undefined, copies: [], chains }]),
      };
    }
    const after: NewStanding = {
      below: onto.links,
      name,
      leavesOutEqual: true,
      isCompressed: request.isCompressed,
      notes: [
        noteOnStanding(onto.links, false),
        ...onto.links.flatMap(({ warnings }) => warnings),
        ...(await findCutOffImages(onto)),
        ...findFences(device, onto, context.table),
        ...noteOnSize(standing.top, onto.links),
      ],
    };
    if (!request.isUnsafe) {
      const part = { ...(await planNewStanding("rebase", standing, after, context)), chains };
      return { ...MAKES_NO_FILES, ...joinStandings([device], [part]) };
    }
    return await planUnsafe(standing, after, chains, context);
  },
};

/** What is to be named where nothing is there. */
async function findMissing(
  { isUnsafe, nameIfMissing: name, onto, format }: RebaseRequest,
  { storage }: PlanContext,
): Promise<StoredBacking | undefined> {
  if (!isUnsafe || name === undefined || format === undefined) return undefined;
  return (await storage.stat(onto)) ? undefined : { name, format: parseImageFormat(format) };
}

async function planUnsafe(
  standing: Standing,
  after: NewStanding,
  chains: Plan["chains"],
  context: PlanContext,
): Promise<Plan> {
  await assertMayStand(standing, after, context);
  const [first] = after.below;
  const backing = first && after.name !== undefined ? { name: after.name, format: first.format } : undefined;
  return planNameAlone(standing, after, { backing, path: first?.path ?? "", chains });
}

interface Naming {
  readonly backing: StoredBacking | undefined;
  /** Where the name leads. */
  readonly path: string;
  readonly chains: Plan["chains"];
}

/** The header changes, and nothing else. */
function planNameAlone(
  standing: Standing,
  after: Pick<NewStanding, "below" | "name" | "notes">,
  { backing, path, chains }: Naming,
): Plan {
  const { top, entry } = standing;
  const unchecked = {
    code: "nothing compared",
    image: path,
    snapshots: top.header?.nbSnapshots ?? 0,
  } as const;
  const part = {
    report: reportOf("rebase", standing, [...after.notes, unchecked]),
    change: { device: entry.name, after: withMirrorUnknown(entryOnNew(standing, after)) },
    copies: [],
    chains,
  };
  return {
    ...MAKES_NO_FILES,
    ...joinStandings([entry.name], [part]),
    redo: [{ link: top, write: async (file) => await changeBacking(file, backing) }],
  };
}

/** What the mirror holds may not be what the disk shows then: both are compared next time. */
function withMirrorUnknown({ mirror, ...entry }: DeviceEntry): DeviceEntry {
  return { ...entry, mirror: mirror && { ...mirror, source: [] } };
}

/** Whether its backing image is named relative to it. */
function standsRelative({ header }: ChainLink): boolean {
  const name = header?.backingFileName;
  return name !== undefined && !name.startsWith("/") && !isProtocolName(name);
}

/** By the same name it finds the same file. */
function isThere({ header }: ChainLink, [wanted]: readonly ChainLink[], name: string): boolean {
  return header?.backingFileName === name && header.backingFormat === wanted?.format;
}

function noteOnSize({ virtualSizeBytes: diskBytes }: ChainLink, [first]: readonly ChainLink[]): Note[] {
  if (!first || first.virtualSizeBytes === diskBytes) return [];
  const { path: image, virtualSizeBytes: sizeBytes } = first;
  return [{ code: "other size below", image, sizeBytes, diskBytes }];
}
