// Which snapshots a policy lets go of, for all devices or for some: what is decided, with the reasons, and the one request that
// does it.
//
// Invariants
// - The policy goes through the snapshots of each device by itself, as if there were no other device: nightly snapshots of
//   two guests thin out each other's in no way. A snapshot stays whole while any of these devices keeps it.
// - Nothing is decided where a record can't be read; and no device loses all of its snapshots.

import { findDevice, readingSnapshots, readTable, requireDevice } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import type { Session } from "./requests/request.ts";
import type { SnapshotDeleteRequest } from "./requests/way-back-requests.ts";
import { applyPolicy, type Moment, type Reason, type RetentionPolicy } from "./retention.ts";

/** What becomes of a snapshot. */
export interface PruneDecision {
  readonly number: number;
  readonly name: string | null;
  /** ISO 8601, UTC. */
  readonly created: string;
  /** Those that it was judged for. */
  readonly devices: readonly string[];
  /** Why it stays, each with the devices that say so. None: it goes. */
  readonly reasons: readonly { readonly reason: Reason; readonly devices: readonly string[] }[];
}

export interface PrunePlan {
  /** Newest first. */
  readonly decisions: readonly PruneDecision[];
  /** Undefined where nothing goes. */
  readonly request: SnapshotDeleteRequest | undefined;
  /** Devices that are in the table no more, whose moments stay with snapshots that go. */
  readonly left: readonly { readonly number: number; readonly device: string }[];
}

/** Of the named devices, or of all that are in the table. */
export async function planPrune(
  { workspace }: Session,
  named: readonly string[],
  policy: RetentionPolicy,
): Promise<PrunePlan> {
  const table = await readTable(workspace);
  for (const device of named) requireDevice(table, device);
  const isJudged = (device: string): boolean =>
    named.length === 0 ? findDevice(table, device) !== undefined : named.includes(device);
  const reads = readingSnapshots(workspace, table);
  const snapshots = [];
  for (const ref of table.snapshots) {
    const { number, name, created, devices } = await reads.read(ref);
    const kept = devices.map(({ device }) => device);
    snapshots.push({ number, name, created, kept, judged: kept.filter(isJudged) });
  }
  const all = snapshots.filter(({ judged }) => judged.length > 0).toReversed();
  const verdicts = judgeAll(all, policy, workspace.storage.host.now());
  const decisions = all.map(({ number, name, created, judged: devices }): PruneDecision => {
    const reasons = new Map<Reason, string[]>();
    for (const device of devices) {
      for (const reason of verdicts.get(device)?.get(number) ?? [])
        reasons.set(reason, [...(reasons.get(reason) ?? []), device]);
    }
    const said = [...reasons].map(([reason, by]) => ({ reason, devices: by }));
    return { number, name, created, devices, reasons: said };
  });
  const going = new Set(decisions.flatMap(({ number, reasons }) => (reasons.length === 0 ? [number] : [])));
  const gone = snapshots.filter(({ number }) => going.has(number));
  const rest = gone.map(({ number, kept, judged }) => ({
    number,
    devices: kept.filter((one) => !judged.includes(one)),
  }));
  const isWhole = rest.every(({ devices }) => devices.length === 0);
  return {
    decisions,
    request:
      gone.length === 0
        ? undefined
        : {
            kind: "snapshot-delete",
            snapshots: gone.map(({ number }) => String(number)),
            devices: isWhole ? [] : [...new Set(gone.flatMap(({ judged }) => judged))],
            keepsImages: false,
          },
    left: rest.flatMap(({ number, devices }) =>
      devices.flatMap((device) => (findDevice(table, device) ? [] : [{ number, device }])),
    ),
  };
}

interface Judged {
  readonly number: number;
  readonly name: string | null;
  readonly created: string;
  readonly judged: readonly string[];
}

/** By device, then by number. E_REFUSED where one would keep none. */
function judgeAll(
  snapshots: readonly Judged[],
  policy: RetentionPolicy,
  nowMs: number,
): ReadonlyMap<string, ReadonlyMap<number, readonly Reason[]>> {
  const moments = new Map<string, Moment[]>();
  for (const { number, name, created, judged } of snapshots) {
    for (const device of judged) {
      const own = moments.get(device) ?? [];
      own.push({ number, name, createdMs: Date.parse(created) });
      moments.set(device, own);
    }
  }
  return new Map(
    [...moments].map(([device, own]) => {
      const verdict = applyPolicy(own, policy, nowMs);
      if ([...verdict.values()].every((reasons) => reasons.length === 0)) throw wouldKeepNone(device);
      return [device, verdict];
    }),
  );
}

function wouldKeepNone(device: string): ImgtxError {
  return new ImgtxError("E_REFUSED", `the policy would keep no snapshot of '${device}'`, {
    device,
    hint: "`--keep-last 1` keeps the newest besides; `imgtx snapshot-delete SNAPSHOT` takes all away that it names",
  });
}
