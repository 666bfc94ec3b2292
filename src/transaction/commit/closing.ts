// What a commit keeps of the table that it supersedes: all of it for the history, and snapshots of what its devices were
// on, each when its statement takes effect. And what it did, as data for the history and in words.

import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  type FenceEntry,
  filesOfEntry,
  filesOfSnapshot,
  type Operation,
  type OperationAction,
  renamed,
  sealDevice,
  type SeenFile,
  type SnapshotRef,
  withGivenUp,
  withLooks,
  withRenames,
  withSealsOf,
  withSnapshot,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { beforeItsName, describeChanges, type Fingerprint } from "../../format/index.ts";
import {
  changesByStatement,
  changesOf,
  liveStatements,
  type PlanRecord,
  renamesOf,
  type TransactionState,
  type WatchedImage,
} from "../journal/index.ts";
import { withName } from "../notes/note-words.ts";

/**
 * The present table as it goes into the history: the chains that the transaction leaves carry the
 * fingerprints that they had last, since that is what a rollback must find again. redone: what the transaction has
 * changed in place. written: what others have written to since the mark.
 */
export function closingTable(
  table: DeviceTable,
  state: TransactionState,
  redone: ReadonlyMap<string, Fingerprint> = new Map(),
  written: ReadonlyMap<string, Fingerprint> = new Map(),
): DeviceTable {
  const last = new Map<string, WatchedImage>();
  for (const { plan } of liveStatements(state)) {
    for (const watched of plan.watched) {
      if (!last.has(watched.image) || plan.renews.includes(watched.image)) last.set(watched.image, watched);
    }
  }
  const changed = [...written, ...withoutFences(redone, state)];
  for (const [image, fingerprint] of changed) last.set(image, { device: null, image, fingerprint });
  const left = new Set(changesOf(state).map((change) => change.device));
  const fenced = new Set(state.fences.map(({ image }) => image));
  return {
    ...table,
    devices: table.devices.map((device) =>
      left.has(device.name)
        ? {
            ...device,
            chain: device.chain.map((entry) => ({
              ...entry,
              fingerprint: keptFingerprint(
                device,
                entry,
                last.get(entry.image)?.fingerprint ?? entry.fingerprint,
                fenced.has(entry.image),
              ),
              dataFile: entry.dataFile && {
                ...entry.dataFile,
                fingerprint: last.get(entry.dataFile.image)?.fingerprint ?? entry.dataFile.fingerprint,
              },
            })),
          }
        : device,
    ),
  };
}

/**
 * What of an image goes into the history. Of one that is fenced for the device, and that nobody wrote to since:
 * what it is without its fence, since a rollback finds it when the fence has been lifted.
 */
function keptFingerprint(
  device: DeviceEntry,
  entry: ChainEntry,
  last: Fingerprint,
  isLeftFenced: boolean,
): Fingerprint {
  const fence = device.frozen?.fences.find(({ image }) => image === entry.image);
  if (fence && describeChanges(entry.fingerprint, last).length === 0) {
    return unfenced(last, fence);
  }
  // A fence that is up until the table has moved is lifted with the time put back, which moves the change time.
  return isLeftFenced ? beforeItsName(last) : last;
}

/** What a fenced image looks like once its fence is lifted. */
function unfenced(
  look: Fingerprint,
  { modifiedNs, unfencedSha256 }: Pick<FenceEntry, "modifiedNs" | "unfencedSha256">,
): Fingerprint {
  return { ...beforeItsName(look), modifiedNs, headerSha256: unfencedSha256 };
}

/** What a rollback finds of them, once the fences are lifted that they keep. */
function withoutFences(
  looks: ReadonlyMap<string, Fingerprint>,
  { fences }: TransactionState,
): ReadonlyMap<string, Fingerprint> {
  const kept = new Map(fences.map((fence) => [fence.image, fence]));
  return new Map(
    [...looks].map(([image, look]) => {
      const fence = kept.get(image);
      if (!fence?.kept) return [image, look];
      const { unfencedSha256 } = fence.kept;
      return [image, unfenced(look, { unfencedSha256, modifiedNs: fence.modifiedNs ?? look.modifiedNs })];
    }),
  );
}

/**
 * The next table with what the transaction keeps of the closing one, and of what its own statements made in between, and
 * without what it gives up. A name that somebody else has taken since the mark gets a number of its own.
 */
export function withPlannedSnapshots(
  next: DeviceTable,
  closing: DeviceTable,
  state: TransactionState,
  created: string,
): DeviceTable {
  let table = withRenames(withSealsOf(next, closing), renamesOf(state), next.generation);
  const entries = new Map(closing.devices.map((entry) => [entry.name, entry]));
  const files = closing.devices.flatMap(({ chain }) => chain).flatMap(filesOfEntry);
  const seen = new Map(files.map(({ image, fingerprint }) => [image, fingerprint]));
  for (const { plan, changes, givesUp } of changesByStatement(state)) {
    const renames = renamesOf(state, plan.statement);
    if (plan.snapshot) {
      const { devices, name, message, files } = plan.snapshot;
      const left = devices.flatMap((device): readonly DeviceEntry[] => {
        const entry = entries.get(device);
        return entry ? [entry] : [];
      });
      const taken = withSnapshot(table, {
        name: name === null ? null : freeName(table, name),
        message,
        created,
        ...(files && { files }),
        devices: withSealsOf({ ...table, devices: left }, table).devices.map((entry) => {
          const device = renamed(entry.name, renames);
          return { ...sealDevice(withStandingSeals(entry, device, table)), device };
        }),
      });
      ({ table } = taken);
    }
    for (const givenUp of givesUp) table = withGivenUp(table, givenUp);
    for (const { device, after } of changes) {
      // What a plan did not look at, it has as the table knew it.
      if (after) entries.set(device, withLooks(after, seen));
      else entries.delete(device);
    }
  }
  return table;
}

/** Without seals of snapshots that an earlier statement gave up: a record must lead to none of these. */
function withStandingSeals(entry: DeviceEntry, device: string, { snapshots }: DeviceTable): DeviceEntry {
  const keeps = (number: number): boolean =>
    snapshots.some((ref) => ref.number === number && ref.without?.includes(device) !== true);
  const chain = entry.chain.map((one) => {
    const { sealedBy, ...rest } = one;
    return sealedBy === undefined || keeps(sealedBy) ? one : rest;
  });
  return { ...entry, chain };
}

/**
 * Its new snapshots with what images looked like last: a statement that sealed one after another action of the transaction
 * had it from the plan of that. And of images that the transaction has changed before, with what they look like then; or
 * has made, with what they look like by their names.
 */
export function withLooksOfKept(
  table: DeviceTable,
  closing: DeviceTable,
  state: TransactionState,
  redone: ReadonlyMap<string, Fingerprint>,
  made: ReadonlyMap<string, Fingerprint> = new Map(),
): DeviceTable {
  const known = closing.devices.flatMap(({ chain }) => chain).flatMap(filesOfEntry);
  const looks = new Map([
    ...known.map(({ image, fingerprint }) => [image, fingerprint] as const),
    ...made,
    ...withoutFences(redone, state),
  ]);
  const renew = <File extends SeenFile>(file: File): File => ({
    ...file,
    fingerprint: looks.get(file.image) ?? file.fingerprint,
  });
  const renewIn = <Ref extends Pick<SnapshotRef, "unwritten">>(ref: Ref): Ref => {
    const { unwritten } = ref;
    if (!unwritten) return ref;
    const devices = unwritten.devices.map((one) => ({
      ...one,
      chain: one.chain.map((entry) => ({
        ...renew(entry),
        dataFile: entry.dataFile && renew(entry.dataFile),
      })),
    }));
    return { ...ref, unwritten: { ...unwritten, devices } };
  };
  const snapshots = table.snapshots.map((ref) => {
    const { later } = ref;
    return later ? { ...renewIn(ref), later: later.map(renewIn) } : renewIn(ref);
  });
  return { ...table, snapshots };
}

/** Images of records that are still to be written, and that no device and no mirror writes to. */
export function imagesKeptAnew({ snapshots, devices }: DeviceTable): ReadonlySet<string> {
  const records = snapshots.flatMap(({ unwritten, later = [] }) => [
    unwritten,
    ...later.map((one) => one.unwritten),
  ]);
  const written = new Set(
    devices.flatMap(({ image, mirror }) => [image, ...(mirror?.chain ?? []).map((one) => one.image)]),
  );
  return new Set(
    records
      .flatMap((record) => (record ? filesOfSnapshot(record) : []))
      .flatMap(({ image }) => (written.has(image) ? [] : [image])),
  );
}

/** E_EXISTS where a snapshot has the name of one that the transaction takes, or two of those have. */
export function assertNamesFree({ snapshots }: DeviceTable, state: TransactionState): void {
  const taken = new Set(snapshots.map(({ name }) => name));
  for (const { plan } of changesByStatement(state)) {
    const name = plan.snapshot?.name ?? null;
    if (name === null) continue;
    if (taken.has(name)) throw nameTaken(name);
    taken.add(name);
  }
}

function nameTaken(name: string): ImgtxError {
  return new ImgtxError("E_EXISTS", `a snapshot is called '${name}' already`, {
    hint: "`imgtx snapshot-list` lists them; give this one another --name",
  });
}

function freeName({ snapshots }: DeviceTable, name: string): string {
  const taken = new Set(snapshots.map((ref) => ref.name));
  for (let number = 1; ; number += 1) {
    const candidate = number === 1 ? name : `${name} (${number})`;
    if (!taken.has(candidate)) return candidate;
  }
}

/** The snapshots are those that are there as it is committed. */
export function operationOf(state: TransactionState, snapshots: readonly SnapshotRef[]): Operation {
  return {
    name: state.begin.name,
    actions: liveStatements(state).map(({ plan }) => actionOf(plan, snapshots)),
  };
}

function actionOf(
  { kind, devices, reports, standing }: PlanRecord,
  snapshots: readonly SnapshotRef[],
): OperationAction {
  const [number] = reports.flatMap(({ notes }) =>
    notes.flatMap((note) => (note.code === "back to a snapshot" ? [note.number] : [])),
  );
  const name = snapshots.find((ref) => ref.number === number)?.name ?? null;
  const givenUp = new Map(
    reports.flatMap(({ notes }) =>
      notes.flatMap((note) =>
        note.code === "snapshot given up" && note.number !== null ? [[note.number, note] as const] : [],
      ),
    ),
  );
  return {
    kind,
    devices,
    ...(number !== undefined && { snapshot: { number, name } }),
    ...(standing && { generation: standing.position }),
    ...(givenUp.size > 0 && {
      givenUp: [...givenUp].map(([one, note]) => ({ number: one, name: note.name })),
    }),
  };
}

/** `snapshot-group vda vdb, rollback vdc to mon, snapshot-delete vda giving up 2 (tue) 7` */
export function summarise(state: TransactionState, snapshots: readonly SnapshotRef[] = []): string {
  return sayActions(operationOf(state, snapshots).actions);
}

function sayActions(actions: readonly OperationAction[]): string {
  const parts = actions.map(({ kind, devices, snapshot, generation, givenUp = [] }) =>
    [
      kind,
      ...devices,
      ...(snapshot ? ["to", snapshot.name ?? snapshot.number] : []),
      ...(generation === undefined ? [] : ["to generation", generation]),
      ...(givenUp.length === 0 ? [] : ["giving up", ...sayGivenUp(givenUp)]),
    ].join(" "),
  );
  return parts.length === 0 ? "no action yet" : parts.join(", ");
}

/** More of them are a number: a prune may take hundreds. As data they are all there. */
const NAMED_MOST = 8;

function sayGivenUp(givenUp: NonNullable<OperationAction["givenUp"]>): string[] {
  const named = givenUp.slice(0, NAMED_MOST).map(({ number, name }) => withName(String(number), name));
  const more = givenUp.length - named.length;
  return more === 0 ? named : [...named, `and ${more} more`];
}
