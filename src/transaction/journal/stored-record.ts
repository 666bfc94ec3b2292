// Records on their way to and from the disk. A workspace can be moved with a transaction open in it: so
// paths inside it are relative there.

import { posix } from "node:path";
import {
  fromStoredPath,
  type GivenUp,
  mapEntryPaths,
  mapImagePaths,
  mapProgram,
  mapSnapshotPaths,
  toStoredPath,
  type Workspace,
} from "../../device/index.ts";
import type { ParsedJournal } from "./record-line.ts";
import type { UpStep } from "./copy-steps.ts";
import type { JournalRecord, PlanRecord, StagedImagePlan } from "./records.ts";

/** Records as they are used in memory: of the present version, and every path absolute. */
export function mapContent(workspace: Workspace, parsed: ParsedJournal): ParsedJournal {
  const records = parsed.records.map((record) =>
    mapRecordPaths(record, (path) => fromStoredPath(workspace.root, path)),
  );
  return { ...parsed, records };
}

/** A record as it is written: paths inside the workspace relative to it. */
function toStored(root: string, record: JournalRecord): JournalRecord {
  return mapRecordPaths(record, (path) => toStoredPath(root, path));
}

/** Of a plan for many disks it is long: it is made once, to be judged and to be written. */
const written = new WeakMap<JournalRecord, { readonly root: string; readonly json: string }>();

/** The same as JSON, as it stands in the journal. */
export function storedJson(root: string, record: JournalRecord): string {
  const known = written.get(record);
  if (known?.root === root) return known.json;
  const json = JSON.stringify(toStored(root, record));
  written.set(record, { root, json });
  return json;
}

function mapRecordPaths(record: JournalRecord, map: (path: string) => string): JournalRecord {
  if (record.type === "prepared") {
    const { files, redo, reads } = record;
    return {
      ...record,
      files: files.map((file) => ({ ...file, path: map(file.path) })),
      redo: redo.map((one) => mapRedo(one, map)),
      ...(reads && { reads: reads.map((one) => ({ ...one, image: map(one.image) })) }),
    };
  }
  if (record.type === "done" && record.named) {
    return { ...record, named: record.named.map((file) => ({ ...file, path: map(file.path) })) };
  }
  if (record.type === "provision") {
    const volumes = record.volumes.map((one) => ({
      ...one,
      path: map(one.path),
      command: mapProgram(one.command, map),
    }));
    return { ...record, volumes };
  }
  if (record.type === "commit" && record.settled) return { ...record, settled: record.settled.map(map) };
  if (record.type === "copied") return { ...record, path: map(record.path) };
  if (record.type === "staged") return { ...record, redo: mapRedo(record.redo, map) };
  if (record.type === "applied") return { ...record, image: map(record.image) };
  if (record.type === "fencing") {
    return { ...record, fences: record.fences.map((fence) => ({ ...fence, image: map(fence.image) })) };
  }
  return record.type === "plan" ? mapPlanPaths(record, map) : record;
}

function mapPlanPaths(record: PlanRecord, map: (path: string) => string): PlanRecord {
  const orNull = (path: string | null) => (path === null ? null : map(path));
  return {
    ...record,
    reports: record.reports.map((report) => ({
      ...report,
      before: orNull(report.before),
      after: orNull(report.after),
      files: report.files.map((file) => ({ ...file, path: map(file.path) })),
      notes: report.notes.map((note) => ("image" in note ? { ...note, image: map(note.image) } : note)),
    })),
    newFiles: record.newFiles.map((file) => ({
      ...file,
      path: map(file.path),
      staging: map(file.staging),
    })),
    changes: record.changes.map(({ device, after }) => ({
      device,
      after: after && mapEntryPaths(after, map),
    })),
    allowPaths: record.allowPaths.map(map),
    renews: record.renews.map(map),
    watched: record.watched.map((watched) => ({ ...watched, image: map(watched.image) })),
    redo: record.redo.map((redo) => mapRedo(redo, map)),
    copies: record.copies.map((copy) => ({
      ...copy,
      from: map(copy.from),
      files: copy.files.map(map),
      into: map(copy.into),
      ...(copy.up && { up: mapStep(copy.up, map) }),
    })),
    late: record.late.map(({ backing, ...late }) => ({
      ...mapRedo(late, map),
      ...(backing && { backing: { ...backing, path: map(backing.path) } }),
    })),
    removes: record.removes.map(map),
    // Also the workspace's own folder moves with it.
    ...(record.currentFolder !== undefined && {
      currentFolder: posix.normalize(map(`${record.currentFolder}/.`)),
    }),
    ...(record.givesUp && { givesUp: record.givesUp.map((one) => mapGivenUp(one, map)) }),
    ...(record.standing?.renewed && {
      standing: {
        ...record.standing,
        renewed: record.standing.renewed.map((each) => mapSnapshotPaths(each, map)),
      },
    }),
    folders: record.folders.map((folder) => ({ ...folder, path: map(folder.path) })),
  };
}

function mapGivenUp(givenUp: GivenUp, map: (path: string) => string): GivenUp {
  const { renewed, taken, marks } = givenUp;
  return {
    ...givenUp,
    images: givenUp.images.map(map),
    ...(renewed && { renewed: renewed.map((each) => mapSnapshotPaths(each, map)) }),
    ...(taken && {
      taken: {
        ...taken,
        snapshots: taken.snapshots.map((each) => ({
          ...each,
          chain: each.chain.map((entry) => mapImagePaths(entry, map)),
        })),
      },
    }),
    ...(marks && { marks: marks.map((mark) => ({ ...mark, image: map(mark.image) })) }),
  };
}

function mapRedo<Redo extends Pick<StagedImagePlan, "image" | "log">>(
  redo: Redo,
  map: (path: string) => string,
): Redo {
  return { ...redo, image: map(redo.image), log: map(redo.log) };
}

/** The stored name is what the image has, and no path of the workspace's. */
function mapStep(step: UpStep, map: (path: string) => string): UpStep {
  const { onto, until, log } = step;
  return {
    ...step,
    onto: onto && { ...onto, path: map(onto.path) },
    ...(until && { until: { ...until, path: map(until.path) } }),
    log: map(log),
  };
}
