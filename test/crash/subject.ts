// What the crash rig needs to know of the program under test, and nothing more. The real one is the
// command line (command-line.ts); the rig's own tests use a toy protocol (toy-protocol.ts).

import type { Storage } from "../../src/storage/index.ts";
import type { Tree } from "./simulated/disk-tree.ts";
import { startProcess } from "./simulated/simulated-process.ts";
import { afterProcessDeath, type SimulatedMachine } from "./simulated/simulated-disk.ts";

export interface RunResult {
  readonly exit: number;
  /** Everything that it printed, for reports. */
  readonly text: string;
}

export interface Subject {
  /** Runs one command as a process of its own. Throws only for a bug. */
  run(storage: Storage, argv: readonly string[]): Promise<RunResult>;
  /**
   * The same after a reboot, for who goes on with what lay open: a command from another boot joins nothing that it
   * does not name. Default: run.
   */
  runAfterReboot?(machine: SimulatedMachine, argv: readonly string[]): Promise<RunResult>;
  /** The command that does nothing but recover. */
  readonly recover: readonly string[];
  /**
   * All that a user can tell: devices, guest content, open transactions, files outside the program's own
   * folder. One fact a line. Anything that no correct disk can show throws a BadState.
   */
  observe(machine: SimulatedMachine): Promise<string>;
  /** A command that would change something. */
  readonly probe?: readonly string[];
  /** Whether a path is of files that are derived from others, so that making them anew changes nothing. */
  isDerived?(path: string): boolean;
  /** Of an observation, what the disks hold: not which files lie around, nor what is open. */
  disksOf(observed: string): string;
  /** The files outside the program's own folder, one a line. Runs nothing. */
  files(tree: Tree): string;
  /** The devices of an observation. */
  devicesOf?(observed: string): string[];
  /** Starts the guest of a device. Undefined where it is kept out, or there is nothing to start it on. */
  startGuest?(machine: SimulatedMachine, device: string, place: GuestPlace): Promise<GuestWrite | undefined>;
}

/** Where a guest writes: over data of its own disk, where the image has none yet, at the end of the disk, or at an offset. */
export type GuestPlace = "data" | "hole" | "end" | number;

/** What a guest has written, durably. */
export interface GuestWrite {
  readonly device: string;
  /** The image that it wrote to. */
  readonly image: string;
  /** Its files: that image, and its data file where it has one. */
  readonly files: readonly string[];
  readonly offset: number;
  /** What it finds since, as observed. */
  readonly line: string;
  readonly text: string;
}

/** A disk that no crash and no error may leave behind: corrupt metadata, a chain that does not open. */
export class BadState extends Error {
  override readonly name = "BadState";
}

export interface Step {
  readonly argv: readonly string[];
  /** The exit status without a crash. Default: 0. */
  readonly exit?: number;
  /**
   * Whether, when an error stops it (13), the next command may go on with it: it takes something back, or
   * what it makes is no harm.
   */
  readonly failsForward?: boolean;
  /**
   * Whether this step, a commit or an undo, may be refused after a recovery that was cut off: a fence is lifted, and its image
   * has a time that nobody knows, since a guest may have been started before it was put back.
   */
  readonly orRefused?: boolean;
  /** A step whose state before it a crash may lead back to as well: the begin of a transaction that aborts. */
  readonly orBefore?: number;
  /** A command whose effect alone a crash may leave as well, before this step has any of its own. */
  readonly orAfter?: readonly string[];
}

/** `img` has qemu-img's statuses, of which 1 is for all that fails: what it says tells whether that goes on, or is undone. */
export function ownStatus<Exit extends number | undefined>(
  [verb]: readonly string[],
  { exit, text }: { readonly exit: Exit; readonly text: string },
): Exit | 13 | 16 {
  if (verb !== "img" || exit !== 1) return exit;
  return /committed and durable/.test(text) ? 16 : 13;
}

/** A scenario on a simulated disk. */
export interface Plan {
  readonly name: string;
  readonly disk: Tree;
  /** Run first, then taken as durable. */
  readonly prepare: readonly Step[];
  readonly steps: readonly Step[];
  /** Indices of the steps whose crash is studied. Default: all. */
  readonly studied?: readonly number[];
  /** Whether steps are of several transactions, of which a crash may take back one and leave another. */
  readonly mixes?: boolean;
}

/** Runs a command in a new process on the machine. Throws SimulatedDeath if it was killed, whatever it caught. */
export async function runOn(
  machine: SimulatedMachine,
  subject: Subject,
  argv: readonly string[],
): Promise<RunResult> {
  const process = startProcess(machine);
  machine.running.add(process.host.pid);
  try {
    const result = await subject.run(process, argv);
    machine.checkAlive(process);
    return result;
  } finally {
    machine.running.delete(process.host.pid);
  }
}

/** As above, on a machine that was started anew. */
export async function goOnOn(
  machine: SimulatedMachine,
  subject: Subject,
  argv: readonly string[],
): Promise<RunResult> {
  return (await subject.runAfterReboot?.(machine, argv)) ?? (await runOn(machine, subject, argv));
}

/** Observes a copy, so that the machine itself stays as it is. */
export function observeCopy(machine: SimulatedMachine, subject: Subject): Promise<string> {
  return subject.observe(afterProcessDeath(machine));
}
