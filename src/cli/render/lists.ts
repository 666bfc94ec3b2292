// Tables and paragraphs of queries: devices, transactions, generations.

import { formatBytes, sayTime } from "../../units/index.ts";
import type {
  DeviceDescription,
  GenerationDescription,
  SnapshotDescription,
  TransactionDescription,
} from "../../transaction/index.ts";
import type { Canvas } from "./canvas.ts";
import { drawFrozen, sayStanding } from "./chain.ts";
import { fold, indent, table, withName, wrap } from "./layout.ts";
import { drawAction } from "./outcome.ts";

export function drawDevices(devices: readonly DeviceDescription[], canvas: Canvas): string[] {
  const hasMirrors = devices.some(({ mirror }) => mirror !== null);
  const rows = devices.map((device) => [
    device.name,
    device.format,
    device.virtualSizeBytes === null ? "?" : formatBytes(device.virtualSizeBytes),
    String(device.chain.length),
    stateOf(device),
    ...(hasMirrors ? [device.mirror?.standing ? sayStanding(device.mirror.standing) : ""] : []),
    device.image,
  ]);
  const problems = devices.flatMap(({ name, problems: all }) => all.map((problem) => `${name}: ${problem}`));
  const headings = ["NAME", "FORMAT", "SIZE", "IMAGES", "STATE", ...(hasMirrors ? ["MIRROR"] : []), "IMAGE"];
  const list = table(headings, rows, canvas);
  return problems.length === 0 ? list : [...list, "", ...problems];
}

function stateOf(device: DeviceDescription): string {
  if (device.state !== "ok") return device.state;
  if (device.transaction !== null) return `in ${device.transaction}`;
  return device.frozen ? drawFrozen(device) : "ok";
}

export function drawTransactionList(
  transactions: readonly TransactionDescription[],
  canvas: Canvas,
): string[] {
  const rows = transactions.map((transaction) => [
    transaction.id,
    transaction.name ?? "",
    stateOfTransaction(transaction),
    transaction.started === null ? "?" : sayTime(transaction.started),
    transaction.devices.join(" "),
  ]);
  return table(["ID", "NAME", "STATE", "STARTED", "DEVICES"], rows, canvas);
}

function stateOfTransaction({ state, busy }: TransactionDescription): string {
  if (state === "committed") return busy ? "committed, finishing" : "committed, not finished";
  if (state === "aborted") return busy ? "aborted, being undone" : "aborted, not undone";
  if (state === "damaged") return "damaged";
  if (state === "hidden") return "another user's";
  return busy ? "open, busy" : "open";
}

export function drawTransaction(transaction: TransactionDescription, canvas: Canvas): string[] {
  const { paint } = canvas;
  const facts = [
    stateOfTransaction(transaction),
    ...(transaction.started === null ? [] : [`since ${sayTime(transaction.started)}`]),
    ...(transaction.user === null
      ? []
      : [`begun by ${transaction.user}${transaction.here === false ? " elsewhere" : ""}`]),
    ...(transaction.owned ? ["for a `txn exec`"] : []),
    ...(transaction.state === "open" && transaction.onError === "abort" ? ["an error aborts it"] : []),
  ].join(", ");
  const actions = transaction.actions.flatMap((action) => drawAction(action, canvas, "prepared"));
  return [
    `${withName(paint.bold(transaction.id), transaction.name)}: ${facts}`,
    ...(transaction.problem === null ? [] : [`  ${transaction.problem}`]),
    ...(actions.length === 0 ? ["  no actions yet"] : actions.map((line) => `  ${line}`)),
    ...(transaction.savepoints.length === 0 ? [] : [`  savepoints: ${transaction.savepoints.join(", ")}`]),
  ];
}

/** A line a snapshot; what is not as it was is said below. */
export function drawSnapshots(snapshots: readonly SnapshotDescription[], canvas: Canvas): string[] {
  const rows = snapshots.map((snapshot) => [
    String(snapshot.number),
    snapshot.created === null ? "?" : sayTime(snapshot.created),
    snapshot.name ?? "",
    snapshot.devices.map(({ device, intact }) => (intact ? device : `${device}!`)).join(" "),
    snapshot.problem === null ? sayAllocated(snapshot) : "?",
    snapshot.message ?? "",
  ]);
  const list = table(["NUMBER", "TAKEN", "NAME", "DEVICES", "SIZE", "MESSAGE"], rows, canvas);
  const problems = new Map<string, string>();
  for (const { number, devices, files, problem } of snapshots) {
    const all = [
      problem,
      ...devices.flatMap((one) => one.problems),
      ...files.map((one) => one.problem),
    ].flatMap((text) => text ?? []);
    for (const text of all) if (!problems.has(text)) problems.set(text, `snapshot ${number}: ${text}`);
  }
  return problems.size === 0 ? list : [...list, "", ...problems.values()];
}

function sayAllocated({ devices }: SnapshotDescription): string {
  return formatBytes(devices.reduce((sum, one) => sum + (one.allocatedSizeBytes ?? 0), 0));
}

export function drawSnapshot(snapshot: SnapshotDescription, canvas: Canvas): string[] {
  const { paint } = canvas;
  const { number, name, message, created, problem } = snapshot;
  const taken = created === null ? "" : `, taken ${sayTime(created)}`;
  return [
    `${withName(paint.bold(`snapshot ${number}`), name)}${taken}`,
    ...(message === null ? [] : [`  ${message}`]),
    ...(problem === null ? [] : [`  ${problem}`]),
    ...snapshot.devices.flatMap((one) => [
      ...fold(
        [
          `  ${one.device}:`,
          one.image,
          `(${one.format}, ${one.allocatedSizeBytes === null ? "not there" : formatBytes(one.allocatedSizeBytes)}, ${one.intact ? "intact" : paint.yellow("not what it was")})`,
        ],
        canvas,
        4,
      ),
      ...one.problems.map((text) => `    ${text}`),
    ]),
    ...snapshot.files.flatMap((one) => [
      `  with ${one.name} (${formatBytes(one.sizeBytes)})`,
      ...(one.problem === null ? [] : [`    ${paint.yellow(one.problem)}`]),
    ]),
  ];
}

/** As a log: a line for the commit, and one for each device that it moved. */
export function drawGenerations(
  generations: readonly GenerationDescription[],
  { paint, columns = Infinity, arrow }: Canvas,
): string[] {
  return generations.flatMap((generation) => {
    const { present, committed, undo, undoForced, redo, name, summary, problem, devices } = generation;
    const number = `${generation.generation}${present ? "*" : ""}`;
    const mark = undo ? "  undo" : redo ? "  redo" : undoForced ? "  undo --force" : "";
    const time = committed === null ? "" : `  ${sayTime(committed)}`;
    const what = withName(summary, name);
    const moves = devices.flatMap((move) => drawMove(move, arrow));
    const told = moves.length <= MOST_MOVES + 1 ? moves : moves.slice(0, MOST_MOVES);
    const more = moves.length - told.length;
    const room = { columns: columns - 4 };
    return [
      `${paint.bold(number)}${paint.dim(time)}${paint.cyan(mark)}`,
      ...indent(wrap(what, columns - 2), 2),
      ...(problem === null ? [] : indent([paint.yellow(problem)], 2)),
      ...indent(
        told.flatMap((parts) => fold(parts, room, 2)),
        4,
      ),
      ...(more === 0 ? [] : indent([paint.dim(`and ${more} more; --json has all`)], 4)),
    ];
  });
}

/** Of a commit of hundreds of devices. */
const MOST_MOVES = 8;

function drawMove(
  { device, before, after, mirror }: GenerationDescription["devices"][number],
  arrow: string,
): string[][] {
  const lines: string[][] = [];
  if (before?.image !== after?.image || before?.format !== after?.format) {
    const isTold = before?.image === after?.image;
    const say = (one: typeof before) => one && `${one.image}${isTold ? ` as ${one.format}` : ""}`;
    const [from, to] = [say(before), say(after)];
    lines.push(
      from === null ? [`${device}:`, to ?? ""] : [`${device}:`, from, `${arrow} ${to ?? "removed"}`],
    );
  }
  if (mirror) {
    lines.push([`${device}: mirror`, mirror.before ?? "none", `${arrow} ${mirror.after ?? "none"}`]);
  }
  return lines;
}
