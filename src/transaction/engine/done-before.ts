// What the earlier statements of a transaction do, as the plan of a later one asks it; and what that may not do then.
//
// Invariants
// - In a commit redo logs come first, then all copies, then what is made of them. A statement that would come to something
//   else by this order than it says is refused.
// - A snapshot that one of them takes has no record before the commit. What it keeps of a device is followed here as
//   the commit will follow it: an action that moves images says where each of these is then.

import { findDevice, type GivenUp, renamed } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { Plan, PlanContext } from "../actions/plan/action.ts";
import { fencesToRaise, redoOf, type Statement, type TransactionState } from "../journal/index.ts";

type Done = Pick<PlanContext, "changedLast" | "madeHere" | "takenHere" | "takenInDoubt" | "removedHere">;

export function doneBy(statements: readonly Pick<Statement, "plan">[]): Done {
  return {
    changedLast: new Set(
      statements.flatMap(({ plan }) => plan.redo.flatMap(({ image, isLast }) => (isLast ? [image] : []))),
    ),
    madeHere: new Set(statements.flatMap(({ plan }) => plan.newFiles.map(({ path }) => path))),
    ...followTaken(statements),
    removedHere: new Set(statements.flatMap(({ plan }) => plan.removes)),
  };
}

type Taken = Done["takenHere"][number];

function followTaken(
  statements: readonly Pick<Statement, "plan">[],
): Pick<Done, "takenHere" | "takenInDoubt"> {
  let taken: Taken[] = [];
  const inDoubt = new Set<string>();
  for (const [at, { plan }] of statements.entries()) {
    const nameNow = (name: string): string =>
      renamed(
        name,
        statements.slice(at + 1).flatMap((later) => later.plan.renames ?? []),
      );
    const { snapshot, watched, reports, givesUp = [] } = plan;
    if (snapshot) {
      taken.push({
        ...snapshot,
        devices: snapshot.devices.map(nameNow),
        images: new Set(watched.map(({ image }) => image)),
        sealed: new Map(
          reports.map(({ device, before }) => [device === null ? null : nameNow(device), before]),
        ),
      });
    }
    for (const one of givesUp) {
      const device = nameNow(one.device);
      const isTaken = taken.some(({ devices }) => devices.includes(device));
      if (isTaken && mayLoseTaken(one)) inDoubt.add(device);
      taken = withTaken(taken, device, one.taken);
    }
  }
  return { takenHere: taken, takenInDoubt: inDoubt };
}

/** Which of them it takes along, only the commit can tell. */
function mayLoseTaken({ taken, images, snapshots }: GivenUp): boolean {
  return !taken && images.length + snapshots.length > 0;
}

/** With the images that have what they keep of the device then. */
function withTaken(all: readonly Taken[], device: string, then: GivenUp["taken"]): Taken[] {
  let index = 0;
  return all.map((one) => {
    if (!then || !one.devices.includes(device)) return one;
    const chain = then.snapshots[index]?.chain ?? [];
    index += 1;
    const [top] = chain;
    if (!top) return one;
    return {
      ...one,
      images: new Set([...one.images, ...chain.map(({ image }) => image)]),
      sealed: new Map([...one.sealed, [device, top.image]]),
    };
  });
}

/**
 * E_REFUSED where it would change an image that an earlier statement copies into, in a way that has to come after that:
 * what a redo log changes is written before.
 */
export function assertMayFollow(plan: Plan, context: PlanContext, state: TransactionState | undefined): void {
  if (state) assertKeepsFence(plan, state);
  const { redo = [], changes, copies = [] } = plan;
  const { copiedInto } = context;
  const changed = redo.flatMap(({ link: { path }, precedesCopies }) => (precedesCopies ? [] : [path]));
  const frozen = fencesToRaise(changes).map(({ image }) => image);
  const last = [...copiedInto.values()].flatMap(({ late }) => late?.image ?? []);
  // What is written to a layer without a fence after the mark goes where that is merged: nobody would copy it further.
  const left = changes.flatMap(({ device, after }) => {
    const image = findDevice(context.table, device)?.image;
    const stays = after === null || copies.length > 0 || after.chain.some((entry) => entry.image === image);
    return image === undefined || stays ? [] : [image];
  });
  const image = [...changed, ...frozen, ...left].find((one) => copiedInto.has(one));
  const again = redo.map(({ link }) => link.path).find((path) => last.includes(path));
  const found = image ?? again ?? findUnmet(plan, context);
  if (found === undefined) return;
  throw new ImgtxError(
    "E_REFUSED",
    "its content comes with the commit of the transaction, and this has to follow it",
    {
      image: found,
      hint: "commit the transaction first",
    },
  );
}

/**
 * E_REFUSED for a copy into an image that earlier statements make one of version 2: the fence that it has from the mark on
 * would have no place any more when what they change is written, before the copy.
 */
function assertKeepsFence({ copies = [], chains }: Plan, state: TransactionState): void {
  const redo = redoOf(state);
  const old = chains.flatMap(({ chain }) => chain.links).filter(({ header }) => header?.version === 2);
  const lost = old.find(({ path }) => {
    return redo.get(path)?.guardedBy === "fence" && copies.some(({ into }) => into === path);
  });
  if (lost === undefined) return;
  throw new ImgtxError(
    "E_REFUSED",
    "an earlier action makes it an image of version 2, which has no place for the fence that it needs while it is copied into",
    { image: lost.path, hint: "commit the transaction first" },
  );
}

/** An image that it needs as earlier statements leave it, where one of them copies into it, or makes an internal snapshot then. */
function findUnmet({ copies = [], late = [] }: Plan, { copiedInto }: PlanContext): string | undefined {
  const lateOf = (image: string) => copiedInto.get(image)?.late;
  const merged = copies.flatMap(({ kind, from, files }) => (kind === "merge" ? [from, ...files] : []));
  const isLost = merged.find((one) => lateOf(one)?.snapshot !== undefined);
  // What was to come into an image that is merged itself goes where that goes.
  const read = copies.flatMap(({ kind, files }) => (kind === "up" ? files : []));
  const isRead = read.find((one) => copiedInto.has(one) && !merged.includes(one));
  const twice = late.find(({ image, snapshot }) => {
    const before = lateOf(image);
    return before !== undefined && (snapshot !== undefined || before.snapshot !== undefined);
  });
  return isLost ?? isRead ?? twice?.image;
}
