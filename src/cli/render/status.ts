// The facts of a status, one line each, in the order in which an operator wants them: what is wrong comes with its device.

import { formatBytes, sayTime } from "../../units/index.ts";
import type { StatusDescription } from "../../transaction/index.ts";
import type { Canvas } from "./canvas.ts";
import { drawFrozen, sayStanding } from "./chain.ts";
import { drawAge, foldLabelled, withName, wordsOf } from "./layout.ts";

/** A problem is what `--check` ends with 1 for. */
export interface Fact {
  readonly subject: string;
  readonly level: "fact" | "note" | "problem";
  readonly text: string;
}

const DAYS_TOLD = 365;

export function listFacts(status: StatusDescription): Fact[] {
  return [
    { subject: "workspace", level: "fact", text: `${status.root}, generation ${status.generation}` },
    { subject: "devices", level: "fact", text: sayDevices(status) },
    { subject: "snapshots", level: "fact", text: saySnapshots(status) },
    ...status.snapshots.problems.map(({ number, count, text }) => ({
      subject: "snapshots",
      level: "problem" as const,
      text: `${number}${count === 1 ? "" : `, and ${count - 1} older`}: ${text}`,
    })),
    ...status.spaces.map((space) => factOfSpace(space, status)),
    ...status.devices.flatMap((device) => factsOfDevice(device)),
    ...status.transactions.map((transaction) => factOfTransaction(transaction, status)),
    ...factsOfNotes(status),
  ];
}

export function drawStatus(status: StatusDescription, canvas: Canvas): string[] {
  const { paint } = canvas;
  const facts = listFacts(status);
  const width = Math.max(...facts.map(({ subject }) => subject.length));
  const paths = pathsOf(status);
  const colour = (level: Fact["level"], text: string): string =>
    level === "fact" ? text : level === "note" ? paint.yellow(text) : paint.red(text);
  return facts.flatMap(({ subject, level, text }) => {
    const mark = level === "problem" ? "problem: " : "";
    const head = subject.padEnd(width);
    const words = wordsOf(`${head}  ${mark}${text}`, paths);
    return foldLabelled(words, head, canvas, {
      spaces: Math.min(width + 2, 12),
      paintLabel: paint.bold,
      paint: (line) => colour(level, line),
    });
  });
}

/** Those that facts may name. */
function pathsOf({ root, spaces, devices }: StatusDescription): string[] {
  const images = devices.flatMap(({ chain, mirror, unfinishedCopy, holders = [] }) => [
    ...chain.map(({ image }) => image),
    ...[mirror, unfinishedCopy].flatMap((one) => one?.image ?? []),
    ...holders.map(({ image }) => image),
  ]);
  return [root, ...spaces.map(({ folder }) => folder), ...new Set(images)];
}

function sayDevices({ devices }: StatusDescription): string {
  if (devices.length === 0) return "none";
  const depths = devices.map(({ chain }) => chain.length);
  const [least, most] = [Math.min(...depths), Math.max(...depths)];
  const sound = devices.filter(({ state }) => state === "ok").length;
  const depth = least === most ? String(most) : `${least} to ${most}`;
  const unsound = sound === devices.length ? "all sound" : `${devices.length - sound} not sound`;
  return `${devices.length}, ${unsound}, chains of ${depth} image${most === 1 ? "" : "s"}`;
}

function saySnapshots({ snapshots: { count, newest }, now }: StatusDescription): string {
  if (!newest) return "none";
  const age = newest.created === null ? "" : `, ${drawAge(Date.parse(now) - Date.parse(newest.created))} old`;
  return `${count}, the newest ${withName(newest.number, newest.name)}${age}`;
}

function factOfSpace(
  { folder, freeBytes, totalBytes, allocatedBytes, isLow }: StatusDescription["spaces"][number],
  { snapshots: { bytesPerDay } }: StatusDescription,
): Fact {
  const days = bytesPerDay === null || bytesPerDay === 0 ? Infinity : freeBytes / bytesPerDay;
  const forecast =
    days > DAYS_TOLD || bytesPerDay === null
      ? ""
      : `; full in ${Math.floor(days)} days at ${formatBytes(bytesPerDay)} a day, as the last snapshots grew`;
  return {
    subject: "space",
    level: isLow ? "problem" : days < 7 ? "note" : "fact",
    text: `${folder}: ${formatBytes(freeBytes)} free of ${formatBytes(totalBytes)}, images take ${formatBytes(allocatedBytes)}${forecast}`,
  };
}

function factsOfDevice(device: StatusDescription["devices"][number]): Fact[] {
  const { name: subject, problems, holders = [], frozen, mirror, unfinishedCopy } = device;
  const fact = (level: Fact["level"], text: string): Fact => ({ subject, level, text });
  const standing = mirror?.standing;
  const syncedAt = mirror?.syncedAt ?? null;
  const last = syncedAt === null ? "" : `, last in sync ${sayTime(syncedAt)}`;
  const isBehind = standing?.problem === null && standing.behindBytes !== 0;
  return [
    ...problems.map((text) => fact("problem", text)),
    ...(frozen ? [fact("note", drawFrozen(device))] : []),
    ...(isBehind ? [fact("fact", `mirror ${mirror?.image}: ${sayStanding(standing)}${last}`)] : []),
    ...(unfinishedCopy ? [fact("note", `unfinished copy ${unfinishedCopy.image}`)] : []),
    ...holders.map(({ image, pid, program, role }) => {
      const who = pid === 0 ? program : `pid ${pid} (${program})`;
      return fact("fact", `open in ${who}${role === "unknown" ? "" : `, a ${role}`}: ${image}`);
    }),
  ];
}

function factOfTransaction(
  transaction: StatusDescription["transactions"][number],
  { now, stale }: StatusDescription,
): Fact {
  const { id, name, state, started, user, devices, busy, problem } = transaction;
  const ageMs = started === null ? 0 : Date.parse(now) - Date.parse(started);
  const isStale = stale.includes(id);
  const words = [
    `${state}${busy ? ", busy" : ""}${isStale ? ", stale" : ""}`,
    ...(started === null ? [] : [`for ${drawAge(ageMs)}`]),
    ...(user === null ? [] : [`by ${user}`]),
    ...(devices.length === 0 ? [] : [`holds ${devices.join(" ")}`]),
    ...(problem === null ? [] : [problem]),
  ];
  const isProblem =
    problem !== null || state === "damaged" || ((state === "committed" || state === "aborted") && !busy);
  return {
    subject: withName(`txn ${id}`, name),
    level: isProblem ? "problem" : isStale ? "note" : "fact",
    text: words.join(", "),
  };
}

/** What waits is told with its transaction. */
function factsOfNotes({ notes, transactions }: StatusDescription): Fact[] {
  const ids = new Set(transactions.map(({ id }) => id));
  return notes
    .filter(
      ({ did, transaction }) => ["noted", "reported", "waiting"].includes(did) && !ids.has(transaction ?? ""),
    )
    .map(({ text }) => ({ subject: "note", level: "problem" as const, text }));
}
