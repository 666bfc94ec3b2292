// Internal snapshots as qemu-img lists them, for people and as data.

import type { SnapshotEntry } from "../../format/index.ts";
import { formatBytes } from "../../units/index.ts";
import { printable } from "../render/printable.ts";

const HEADING = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT";

/** With line breaks. Times are local, as qemu-img's. */
export function drawSnapshotList(snapshots: readonly SnapshotEntry[]): string {
  return [HEADING, ...snapshots.map(drawSnapshot)].map((line) => `${line}\n`).join("");
}

function drawSnapshot(entry: SnapshotEntry): string {
  const id = padBytes(printable(entry.id), 9);
  const name = padBytes(printable(entry.name), 16);
  const size = formatBytes(entry.vmStateSize).padStart(8);
  const date = drawDate(entry.dateSec).padStart(20);
  const clock = drawClock(entry.vmClockSec, entry.vmClockNsec).padStart(13);
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

function drawClock(seconds: number, nanoseconds: number): string {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].map(two);
  return `${parts.join(":")}.${String(Math.floor(nanoseconds / 1e6)).padStart(3, "0")}`;
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
