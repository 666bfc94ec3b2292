// The JSON of the contract. Keys are kebab-case where qemu-img has them so; sizes are integers, in bytes.

import { ImgtxError } from "../../errors/index.ts";
import { hintOf } from "./hint.ts";
import type {
  ActionReport,
  DeviceDescription,
  GenerationDescription,
  Outcome,
  SnapshotDescription,
  TransactionDescription,
} from "../../transaction/index.ts";

const SCHEMA = 1;

export function withSchema<T extends object>(data: T): { schema: number } & T {
  return { schema: SCHEMA, ...data };
}

/** Members that are sentences for people, or lists of them. No other string is one: it may be a name, or somebody's own words. */
const SENTENCES: ReadonlySet<string> = new Set(["notes", "problem", "problems", "text", "why"]);

/** The same with each sentence as `reword` has it. */
export function withSentences(json: unknown, reword: (text: string) => string, isSentence = false): unknown {
  if (typeof json === "string") return isSentence ? reword(json) : json;
  if (Array.isArray(json)) return json.map((one) => withSentences(one, reword, isSentence));
  if (typeof json !== "object" || json === null) return json;
  const members = Object.entries(json).map(([key, value]) => [
    key,
    withSentences(value, reword, SENTENCES.has(key)),
  ]);
  return Object.fromEntries(members) as unknown;
}

export function deviceJson(device: DeviceDescription): object {
  return {
    name: device.name,
    image: device.image,
    format: device.format,
    "virtual-size": device.virtualSizeBytes,
    chain: device.chain.map(({ image, format, allocatedBytes }) => ({
      image,
      format,
      "allocated-size": allocatedBytes,
    })),
    frozen: device.frozen,
    "frozen-since": device.frozenSince,
    "frozen-by": device.frozenBy,
    fences: device.fences,
    mirror: device.mirror && mirrorJson(device.mirror),
    "unfinished-copy": device.unfinishedCopy && {
      image: device.unfinishedCopy.image,
      copied: device.unfinishedCopy.copiedBytes,
    },
    snapshots: device.snapshots,
    holders: device.holders,
    provision: device.provision,
    transaction: device.transaction,
    view: device.view,
    problem: device.problem,
    state: device.state,
    problems: device.problems,
  };
}

/** Without what nobody looked at: a command that changes something reads nothing afterwards. */
function mirrorJson({ image, format, sync, syncedAt, standing }: Mirror): object {
  const looked = standing && { behind: standing.behindBytes, problem: standing.problem };
  return { image, format, sync, synced: syncedAt, ...looked };
}

type Mirror = NonNullable<DeviceDescription["mirror"]>;

function actionJson(action: ActionReport): object {
  return {
    kind: action.kind,
    device: action.device,
    before: action.before,
    after: action.after,
    format: action.format,
    files: action.files.map(({ path, change }) => ({ path, change })),
    notes: action.notes,
    ...(action.layersMerged.length > 0 && {
      "layers-merged": action.layersMerged.map(({ into, direction, lengthBytes: bytes }) => ({
        into,
        direction,
        bytes,
      })),
    }),
    ...(action.snapshotsGivenUp.length > 0 && { "snapshots-given-up": action.snapshotsGivenUp }),
    "copied-bytes": action.copiedBytes,
    "rotted-bytes": action.rottedBytes,
  };
}

export function outcomeJson(outcome: Outcome): object {
  return withSchema({
    changed: outcome.changed,
    "dry-run": outcome.dryRun,
    transaction: outcome.transaction,
    pending: outcome.pending,
    generation: outcome.generation,
    ...(outcome.applied !== undefined && { applied: outcome.applied }),
    ...(outcome.snapshots.length > 0 && { snapshots: outcome.snapshots }),
    actions: outcome.actions.map(actionJson),
    devices: outcome.devices.map(deviceJson),
    kept: outcome.kept.map(({ path, why }) => ({ path, why })),
  });
}

export function transactionJson(transaction: TransactionDescription): object {
  return {
    id: transaction.id,
    name: transaction.name,
    state: transaction.state,
    started: transaction.started,
    user: transaction.user,
    here: transaction.here,
    owned: transaction.owned,
    "on-error": transaction.onError,
    busy: transaction.busy,
    devices: transaction.devices,
    actions: transaction.actions.map(actionJson),
    savepoints: transaction.savepoints,
    problem: transaction.problem,
  };
}

export function snapshotJson(snapshot: SnapshotDescription): object {
  return {
    number: snapshot.number,
    name: snapshot.name,
    message: snapshot.message,
    created: snapshot.created,
    devices: snapshot.devices.map((one) => ({
      device: one.device,
      image: one.image,
      format: one.format,
      "allocated-size": one.allocatedSizeBytes,
      images: one.depth,
      intact: one.intact,
      problems: one.problems,
    })),
    files: snapshot.files.map(({ name, sizeBytes, sha256, problem }) => ({
      name,
      size: sizeBytes,
      sha256,
      problem,
    })),
    problem: snapshot.problem,
  };
}

export function generationJson(generation: GenerationDescription): object {
  return {
    generation: generation.generation,
    present: generation.present,
    committed: generation.committed,
    transaction: generation.transaction,
    name: generation.name,
    summary: generation.summary,
    actions: generation.actions.map(({ kind, devices, snapshot, generation: target, givenUp }) => ({
      kind,
      devices,
      snapshot,
      generation: target,
      "snapshots-given-up": givenUp,
    })),
    devices: generation.devices.map(({ device, before, after, mirror }) => ({
      device,
      before: before?.image ?? null,
      after: after?.image ?? null,
      format: after?.format ?? null,
      mirror,
    })),
    undo: generation.undo,
    "undo-forced": generation.undoForced,
    redo: generation.redo,
    problem: generation.problem,
  };
}

/** `changed` is null where a bug leaves it open. */
export function errorJson(error: unknown): object {
  if (!(error instanceof ImgtxError)) {
    return withSchema({
      error: {
        code: "E_INTERNAL",
        message: `a bug in imgtx: ${error instanceof Error ? error.message : String(error)}`,
        device: null,
        image: null,
        offset: null,
        field: null,
        hint: null,
        changed: null,
      },
    });
  }
  return withSchema({
    error: {
      code: error.code,
      message: error.message,
      device: error.device ?? null,
      image: error.image ?? null,
      offset: error.offset ?? null,
      field: error.field ?? null,
      ...(error.line !== undefined && { line: error.line }),
      hint: hintOf(error) ?? null,
      changed: error.changed,
    },
  });
}
