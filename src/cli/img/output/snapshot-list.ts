// Internal snapshots as qemu-img lists them, for people and as data.

import type { SnapshotEntry } from "../../../format/index.ts";
import { formatBytes } from "../../../units/index.ts";
import { printable } from "../../render/printable.ts";
import { CURRENT, type QemuVersion } from "../grammar/qemu-version.ts";

/** Where newer versions have other widths. */
interface Columns {
  readonly heading: string;
  readonly id: number;
  readonly hourDigits: number;
  readonly clock: number;
}

const OLDER: Columns = {
  heading: "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT",
  id: 9,
  hourDigits: 2,
  clock: 13,
};
const NEWER: Columns = {
  heading: "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT",
  id: 7,
  hourDigits: 4,
  clock: 16,
};

/** Lines. Times are local, as qemu-img's. */
export function drawSnapshotList(
  snapshots: readonly SnapshotEntry[],
  qemuVersion: QemuVersion = CURRENT,
): string[] {
  const columns = qemuVersion < 10 ? OLDER : NEWER;
  return [columns.heading, ...snapshots.map((entry) => drawSnapshot(entry, columns))];
}

function drawSnapshot(entry: SnapshotEntry, columns: Columns): string {
  const id = padBytes(printable(entry.id), columns.id);
  const name = padBytes(printable(entry.name), 16);
  const size = formatBytes(entry.vmStateSize).padStart(8);
  const date = drawDate(entry.dateSec).padStart(20);
  const clock = drawClock(entry, columns.hourDigits).padStart(columns.clock);
  const icount = (entry.icount === undefined ? "" : String(entry.icount)).padStart(11);
  return `${id} ${name} ${size}${date}${clock}${icount}`;
}

/** C counts bytes, not characters. */
function padBytes(text: string, width: number): string {
  return text + " ".repeat(Math.max(0, width - new TextEncoder().encode(text).length));
}

function drawDate(seconds: number): string {
  const date = new Date(seconds * 1000);
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}

function drawClock(
  { vmClockSec: seconds, vmClockNsec: nanoseconds }: SnapshotEntry,
  hourDigits: number,
): string {
  const hours = String(Math.floor(seconds / 3600)).padStart(hourDigits, "0");
  const parts = [Math.floor(seconds / 60) % 60, seconds % 60].map(two);
  return `${[hours, ...parts].join(":")}.${String(Math.floor(nanoseconds / 1e6)).padStart(3, "0")}`;
}

function two(number: number): string {
  return String(number).padStart(2, "0");
}

/** One snapshot under the keys of qemu-img's JSON. */
export function snapshotData(entry: SnapshotEntry): Record<string, unknown> {
  return {
    id: entry.id,
    name: entry.name,
    "vm-state-size": entry.vmStateSize,
    "date-sec": entry.dateSec,
    "date-nsec": entry.dateNsec,
    "vm-clock-sec": entry.vmClockSec,
    "vm-clock-nsec": entry.vmClockNsec,
    icount: entry.icount,
  };
}
