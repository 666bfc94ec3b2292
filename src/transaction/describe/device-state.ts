// What is not as it should be with a device: the state and the problems that results and monitoring show.

import type { DeviceEntry, DeviceTable } from "../../device/index.ts";
import type { ImgtxError } from "../../errors/index.ts";
import type { Obstacle, RecoveryNote } from "../requests/request.ts";
import type { DeviceDescription, MirrorStanding } from "./results.ts";

export type Soundness = Pick<DeviceDescription, "state" | "problems">;

export interface Seen {
  /** Images of the chain that have a fence. */
  readonly fences: readonly string[];
  /** Whether a transaction holds the device, which may have set or lifted fences that the table does not know of. */
  readonly isHeld: boolean;
  /** What of the chain its volumes do not have, as a clause. */
  readonly cutOff: string | undefined;
  /** Why the chain can't be opened. */
  readonly failure: { readonly error: ImgtxError; readonly text: string } | undefined;
  readonly mirror: MirrorStanding | undefined;
}

/** In the order of their weight: the first one's kind is the state. */
export function judgeDevice(
  entry: DeviceEntry,
  table: DeviceTable,
  notes: readonly RecoveryNote[],
  seen: Seen,
): Soundness {
  const found: { readonly state: DeviceDescription["state"]; readonly problem: string }[] = [];
  for (const { transaction, obstacle } of notes) {
    if (!obstacle || !holds(obstacle, entry.name)) continue;
    const what = obstacle.isCommitted ? "finished" : "undone";
    const problem = `transaction ${transaction} waits to be ${what}: ${obstacle.why}; ${obstacle.hint}`;
    found.push({ state: "waiting", problem });
  }
  if (seen.failure) {
    const { error, text } = seen.failure;
    found.push({ state: error.code === "E_NOT_FOUND" ? "missing" : "broken", problem: text });
  } else if (!seen.isHeld) found.push(...judgeFences(entry, table, seen.fences));
  if (seen.cutOff !== undefined) found.push({ state: "broken", problem: seen.cutOff });
  if (seen.mirror && seen.mirror.problem !== null) {
    const state = seen.mirror.isMissing ? "mirror-missing" : "mirror-broken";
    const hint = `put it back, or forget it with \`imgtx mirror --cancel ${entry.name}\``;
    found.push({ state, problem: `its mirror can't be used: ${seen.mirror.problem}; ${hint}` });
  }
  const [first] = found;
  return { state: first?.state ?? "ok", problems: found.map(({ problem }) => problem) };
}

function holds({ devices }: Obstacle, name: string): boolean {
  return devices === null || devices.includes(name);
}

function judgeFences(
  { name, frozen }: DeviceEntry,
  { devices }: DeviceTable,
  fences: readonly string[],
): { readonly state: "fenced" | "changed"; readonly problem: string }[] {
  const known = devices.flatMap((device) => device.frozen?.fences.map(({ image }) => image) ?? []);
  const forgotten = fences.filter((image) => !known.includes(image));
  const lifted = (frozen?.fences ?? []).filter(({ image }) => !fences.includes(image));
  return [
    ...forgotten.map((image) => ({
      state: "fenced" as const,
      problem: `${image} is fenced, and no device is frozen there: QEMU refuses it; \`imgtx unfreeze --force ${name}\` lifts the fence`,
    })),
    ...lifted.map(({ image }) => ({
      state: "changed" as const,
      problem: `the fence of ${image} is gone, though the device is frozen: somebody else has lifted it; \`imgtx unfreeze ${name}\``,
    })),
  ];
}
