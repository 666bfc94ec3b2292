// What is asked of a recovery that waits: it says for which device, for what image, and how it ends; all devices are
// wholly before or wholly after until then; and the command that it names leads there.

import type { RecordedStep } from "../simulated/recording.ts";
import { differences } from "../report.ts";
import { afterProcessDeath, type SimulatedMachine } from "../simulated/simulated-disk.ts";
import { observeCopy, runOn, type RunResult, type Subject } from "../subject.ts";

const WAY_OUT = /`imgtx ((?:txn|recover) [^`]*--(?:force|give-up)[^`]*)`/g;

export interface Waiting {
  readonly recorded: RecordedStep;
  readonly observed: string;
  /** What recovery ended with. */
  readonly result: RunResult;
  /** The device and the image that it has to name. */
  readonly device: string;
  readonly image: string;
}

/** A sentence for each thing that is not as it has to be. */
export function findWaitProblems(
  subject: Subject,
  { recorded, observed, result, device, image }: Waiting,
): string[] {
  const problems: string[] = [];
  if (!result.text.includes(`'${device}'`)) problems.push(`it does not name ${device}`);
  if (!result.text.includes(image)) problems.push(`it does not name ${image}`);
  if (waysOutIn(result).length === 0) problems.push("it names no command that ends it");
  // What changes in place is so before the table counts it.
  const isCounted = (line: string) => !line.startsWith("generation ");
  if (!isBeforeOrAfter(subject, observed, recorded, device, isCounted)) {
    problems.push("the devices are neither before nor after", differences(observed, sidesOf(recorded)));
  }
  return problems.length === 0 ? [] : [...problems, result.text];
}

/** Takes the way out whose turn it is. Undefined where it ends the waiting, with the image as it was. */
export async function findWayOutProblem(
  machine: SimulatedMachine,
  subject: Subject,
  { recorded, result, device, image }: Waiting,
  turn: number,
): Promise<string | undefined> {
  const ways = waysOutIn(result);
  const way = ways[turn % ways.length] ?? "";
  const before = fileLine(subject, machine, image);
  const { exit, text } = await runOn(machine, subject, way.split(" "));
  const told = `\`${way}\` ends with ${exit}\n${text}`;
  if (exit !== 0) return told;
  if (!text.includes(image)) return `${told}\nIt does not name ${image}.`;
  const next = afterProcessDeath(machine, { boots: machine.boots });
  const again = await runOn(next, subject, subject.recover);
  if (again.exit !== 0) return `${told}\nand recovery after it with ${again.exit}\n${again.text}`;
  const after = fileLine(subject, next, image);
  if (after !== before) return `${told}\n${before} became\n${after}`;
  const observed = await observeCopy(next, subject);
  if (isBeforeOrAfter(subject, observed, recorded, device)) return undefined;
  return `${told}\n${differences(observed, sidesOf(recorded))}`;
}

function waysOutIn({ text }: RunResult): string[] {
  return [...new Set([...text.matchAll(WAY_OUT)].map(([, way]) => way ?? ""))];
}

function fileLine(subject: Subject, { tree }: SimulatedMachine, image: string): string | undefined {
  return subject
    .files(tree)
    .split("\n")
    .find((line) => line.startsWith(`file ${image} `) || line.startsWith(`device ${image} `));
}

/** But for what the guest of this device finds. */
function isBeforeOrAfter(
  subject: Subject,
  observed: string,
  recorded: RecordedStep,
  device: string,
  isTold: (line: string) => boolean = () => true,
): boolean {
  const told = (text: string) =>
    subject
      .disksOf(text)
      .split("\n")
      .filter((line) => isTold(line) && !line.startsWith(`guest of ${device}: `))
      .join("\n");
  return [...sidesOf(recorded).values()].some((side) => told(side) === told(observed));
}

function sidesOf({ before, after }: RecordedStep): ReadonlyMap<string, string> {
  return new Map([
    ["before", before],
    ["after", after],
  ]);
}
