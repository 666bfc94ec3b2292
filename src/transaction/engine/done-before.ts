// What the earlier statements of a transaction do, as the plan of a later one asks it.
//
// Invariant: a snapshot that one of them takes has no record before the commit. What it keeps of a device is followed here as
// the commit will follow it: an action that moves images says where each of these is then.

import { type GivenUp, renamed } from "../../device/index.ts";
import type { PlanContext } from "../actions/plan/action.ts";
import type { Statement } from "../journal/index.ts";

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
