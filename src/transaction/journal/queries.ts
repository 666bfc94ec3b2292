// What the rest of the layer asks of a transaction's state.

import {
  type DeviceEntry,
  type FenceEntry,
  givenUpByNames,
  type GivenUp,
  isRaised,
  type Renaming,
  withFingerprints,
  withLooks,
  withLooksOfMade,
} from "../../device/index.ts";
import type { Fingerprint } from "../../format/index.ts";
import type { CopyStep, LateStep } from "./copy-steps.ts";
import type {
  CommitRecord,
  PlanRecord,
  PreparedRedo,
  Statement,
  TableChange,
  TransactionState,
  WatchedImage,
} from "./records.ts";

/** The statements that count: neither undone nor on the way there. */
export function liveStatements(state: TransactionState): readonly Statement[] {
  return state.statements.filter((statement) => !statement.undoing);
}

/** An image as the transaction knows it last: as it was read, or as it made it. */
export interface SeenImage extends WatchedImage {
  readonly isNew: boolean;
}

export function lastSeen(state: TransactionState): ReadonlyMap<string, SeenImage> {
  const seen = new Map<string, SeenImage>();
  for (const { plan, prepared } of liveStatements(state)) {
    for (const watched of plan.watched) {
      const isFirst = !seen.has(watched.image);
      if (isFirst || plan.renews.includes(watched.image)) {
        seen.set(watched.image, { ...watched, isNew: false });
      }
    }
    if (!prepared) continue;
    const deviceOf = new Map(plan.changes.map(({ device, after }) => [after?.image, device]));
    const fresh = new Set(plan.newFiles.map(({ path }) => path));
    for (const { path, fingerprint } of prepared.files) {
      const device = seen.get(path)?.device ?? deviceOf.get(path) ?? null;
      seen.set(path, { device, image: path, fingerprint, isNew: fresh.has(path) });
    }
  }
  return seen;
}

/** With what the commit has found to be as it was read, after each write to it would show. */
export function withSettled(
  state: TransactionState,
  { settled = [] }: Pick<CommitRecord, "settled">,
): TransactionState {
  if (settled.length === 0) return state;
  const images = new Set(settled);
  const statements = state.statements.map((statement) => {
    const { plan } = statement;
    const looks = new Map(
      plan.watched.flatMap(({ image, fingerprint }) =>
        images.has(image) ? [[image, { ...fingerprint, settled: true }] as const] : [],
      ),
    );
    return looks.size === 0 ? statement : { ...statement, plan: withLooksOf(plan, looks) };
  });
  return { ...state, statements };
}

/** The plan, with what images that it has looked at look like since. */
export function withLooksOf(plan: PlanRecord, looks: ReadonlyMap<string, Fingerprint>): PlanRecord {
  return {
    ...plan,
    watched: plan.watched.map((one) => ({ ...one, fingerprint: looks.get(one.image) ?? one.fingerprint })),
    changes: plan.changes.map(({ device, after }) => ({ device, after: after && withLooks(after, looks) })),
  };
}

/** How far each image's redo log counts, by the image. */
export function redoOf(state: TransactionState): ReadonlyMap<string, PreparedRedo> {
  const live = liveStatements(state).flatMap(({ prepared }) => prepared?.redo ?? []);
  return new Map([...live, ...state.staged].map((redo) => [redo.image, redo]));
}

/** The redo logs that a statement makes, in prepare or after the mark. */
export function logsOf(plan: PlanRecord): readonly string[] {
  return [...plan.redo, ...lateLogsOf(plan)].map(({ log }) => log);
}

/** Those of images that are copied into, which are made when all is copied. */
export function lateLogsOf({ copies, late }: PlanRecord): readonly { image: string; log: string }[] {
  return [...copies.flatMap(({ into: image, up }) => (up ? [{ image, log: up.log }] : [])), ...late];
}

/** Content that is to come into an image, and how much of it has, durably. */
export interface Copy extends CopyStep {
  readonly statement: number;
  /** The files of each statement's step, those of the last one last. */
  readonly sources: readonly string[];
  readonly copiedBytes: number;
  /** What is changed in the image when all is copied. */
  readonly late?: LateStep;
}

/** What is copied after the mark, each image once. */
export function copiesOf(state: TransactionState): readonly Copy[] {
  return [...joinCopies(liveStatements(state)).values()];
}

/**
 * The copies of statements, in order, by the image that gets them. What a later one brings stands on what an earlier one
 * did; and what was to be merged into an image that is merged on itself goes where that goes.
 */
export function joinCopies(
  statements: readonly (Pick<Statement, "plan"> & Partial<Pick<Statement, "marks">>)[],
): ReadonlyMap<string, Copy> {
  const copies = new Map<string, Copy>();
  for (const { plan, marks } of statements) {
    for (const step of plan.copies) {
      const { into } = step;
      const above = step.kind === "merge" ? copies.get(step.from) : undefined;
      if (above) copies.delete(step.from);
      const whole = above ? { ...step, from: above.from, files: [...above.files, ...step.files] } : step;
      const sources = [...(copies.get(into)?.sources ?? []), ...whole.files];
      copies.set(into, {
        ...whole,
        statement: plan.statement,
        sources,
        copiedBytes: marks?.get(into) ?? 0,
      });
    }
    for (const late of plan.late) {
      const copy = copies.get(late.image);
      if (copy) copies.set(late.image, { ...copy, late });
    }
  }
  return copies;
}

/** The files that the transaction has made, or is making, and the volumes that it makes images on. */
export function filesMade(state: TransactionState): ReadonlySet<string> {
  const plans = liveStatements(state).map(({ plan }) => plan);
  return new Set(plans.flatMap((plan) => [...plan.newFiles.map(({ path }) => path), ...volumesFilled(plan)]));
}

/** What is raw before its redo log is applied, and a layer of qcow2 afterwards. */
export function volumesFilled({ redo, watched, changes }: PlanRecord): string[] {
  const isRaw = (image: string): boolean =>
    watched.find((one) => one.image === image)?.fingerprint.headerSha256 === null;
  const layers = changes.flatMap(({ after }) => [...(after?.chain ?? []), ...(after?.mirror?.chain ?? [])]);
  return redo.flatMap(({ image }) => {
    const isLayer = layers.some((entry) => entry.image === image && entry.format === "qcow2");
    return isLayer && isRaw(image) ? [image] : [];
  });
}

/** Files that go at the end: what a transaction would change in them changes nothing any more. */
export function filesRemoved(state: TransactionState): ReadonlySet<string> {
  return new Set(liveStatements(state).flatMap(({ plan }) => plan.removes));
}

/** Whether a copy was cut off that can be gone on with: its files are kept until then, and hold no device. */
export function isParked(state: TransactionState): boolean {
  return !state.aborting && state.statements.at(-1)?.parked === true;
}

/** Whether a process is amid it, or was when it ended: else it is open, and waits for a command. */
export function isUnderWay(state: TransactionState): boolean {
  const { begin, commit, aborting, fences, statements } = state;
  if (isParked(state)) return false;
  if (begin.implicit || commit || aborting || fences.length > 0) return true;
  return statements.some(({ undone, undoing, done }) => !undone && (undoing || !done));
}

/** Devices that the transaction holds. */
export function heldDevices(state: TransactionState): string[] {
  const held = state.statements.filter(({ undone, parked }) => !undone && !parked);
  const provisioned = state.volumes.map(({ device }) => device);
  return [...new Set([...held.flatMap((statement) => statement.plan.devices), ...provisioned])].sort();
}

/**
 * The table changes of the live statements in order, with the fingerprints of the files they made, and the fences that
 * the commit has raised.
 */
export function changesOf(state: TransactionState): TableChange[] {
  return changesByStatement(state).flatMap(({ changes }) => changes);
}

/** The same, statement by statement. */
export function changesByStatement(state: TransactionState): {
  readonly plan: PlanRecord;
  readonly changes: readonly TableChange[];
  /** By the names that devices have at the end. */
  readonly givesUp: readonly GivenUp[];
}[] {
  return liveStatements(state).map((statement) => {
    const { plan, prepared } = statement;
    const changes = changesWithFences(statement, state.fences);
    if (plan.givesUp === undefined) return { plan, changes, givesUp: [] };
    const looks = new Map(prepared?.files.map(({ path, fingerprint }) => [path, fingerprint]));
    const renames = renamesOf(state, plan.statement);
    const givesUp = plan.givesUp.map((one) => withLooksOfMade(givenUpByNames(one, renames), looks));
    return { plan, changes, givesUp };
  });
}

/** Statements, fences and entries are never changed once they are made; and each further statement asks what all before it change. */
const asked = new WeakMap<
  Statement,
  { readonly fences: TransactionState["fences"]; readonly changes: readonly TableChange[] }
>();

function changesWithFences(statement: Statement, fences: TransactionState["fences"]): readonly TableChange[] {
  const known = asked.get(statement);
  if (known?.fences === fences) return known.changes;
  const kept = new Map(fences.map((fence) => [fence.image, fence.kept]));
  const withFences = (entry: DeviceEntry): DeviceEntry => ({
    ...entry,
    frozen: entry.frozen && {
      ...entry.frozen,
      fences: entry.frozen.fences.map((one) => (isRaised(one) ? one : { ...one, ...kept.get(one.image) })),
    },
  });
  const { plan, prepared } = statement;
  const read = new Map(plan.watched.map(({ image, fingerprint }) => [image, fingerprint]));
  const made = new Map(
    prepared?.files.map(({ path, fingerprint }) => [path, { before: read.get(path), now: fingerprint }]),
  );
  const changes = plan.changes.map(({ device, after }) => ({
    device,
    after: after && withFences(withFingerprints(after, made)),
  }));
  asked.set(statement, { fences, changes });
  return changes;
}

/** Devices that get other names, in order: by statements after that one, or by all. */
export function renamesOf(state: TransactionState, after = -1): readonly Renaming[] {
  return liveStatements(state).flatMap(({ plan: { statement, renames = [] } }) =>
    statement > after ? renames : [],
  );
}

/** What statements give up of snapshots, by the names that devices have at the end. */
export function givenUpBy(state: TransactionState): readonly GivenUp[] {
  return changesByStatement(state).flatMap(({ givesUp }) => givesUp);
}

/** The fences that devices are to keep, and that are not raised yet. */
export function fencesToRaise(changes: readonly TableChange[]): FenceEntry[] {
  const last = new Map(changes.map(({ device, after }) => [device, after]));
  return [...last.values()].flatMap((after) => after?.frozen?.fences.filter((one) => !isRaised(one)) ?? []);
}
