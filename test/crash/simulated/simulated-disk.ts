// A machine with one disk, in memory. It keeps what running programs see (the page cache), what was
// durable when its log began, and the log of every call that changed something in between. Crashes are
// worked out from those three by disk-states.ts; here is only what a machine does while it runs.
//
// Invariants
// - Every change goes through perform: the one place that logs, injects faults and refuses the dead.
// - Times, names and pids are counted, not drawn: the same calls make the same log.
// - Locks belong to open descriptions, as OFD locks do, and a process takes its own along when it dies.

import { ImgtxError } from "../../../src/errors/index.ts";
import type { ByteRange, LockKind, Origin } from "../../../src/storage/index.ts";
import { applyChange, type Change } from "./disk-log.ts";
import { Tree } from "./disk-tree.ts";
import { SimulatedLeases } from "./simulated-leases.ts";

/** Thrown in a process that a fault has killed, by the fatal call and by every later one. */
export class SimulatedDeath extends Error {
  override readonly name = "SimulatedDeath";
}

export interface Fault {
  /** Which changing call it hits, counted from 0 at the moment of arming. */
  readonly call: number;
  readonly kind: "io" | "no-space" | "death";
  /** Whether it stays: a disk that is full, or dying, from that call on. */
  readonly stays: boolean;
}

/** An open description, as far as locks care. */
export interface LockOwner {
  readonly process: object;
}

interface HeldLock {
  readonly owner: LockOwner;
  readonly start: number;
  readonly end: number;
  readonly kind: LockKind;
}

export interface MachineStart {
  /** What is on the disk. The machine takes copies. */
  readonly durable: Tree;
  readonly log?: readonly Change[];
  /** What programs see: durable with the log applied. Worked out when left out. */
  readonly cached?: Tree;
  /** How many crashes it has seen: ids and times go on from there. */
  readonly boots?: number;
  /** Which start of the host it still is, where only processes died since. Default: that many, a start of its own. */
  readonly boot?: number;
  /** How often disks were taken away and mounted anew in that start, but for the first. */
  readonly mountings?: number;
  /** Flushes for these purposes return success and persist nothing. */
  readonly mutedPurposes?: ReadonlySet<string>;
  /** Waits before each call; races use it to mix two programs. */
  readonly pace?: () => Promise<void>;
  readonly readOnly?: boolean;
  /** Whether its processes see each other's locks. Else each is in a mounting of its own. Default: they do. */
  readonly sharesLocks?: boolean;
  /** Where its commands are started from. Default: all from one terminal. */
  readonly origin?: Origin;
}

/** A terminal's session: the same number after each boot, which is what real ones may have too. */
const TERMINAL: Origin = {
  processes: "pid:[4026531836]",
  login: null,
  loginUser: null,
  service: null,
  sessions: [{ id: 700, started: "7000" }],
  ancestors: [{ pid: 700, started: "7000" }],
};

const FIRST_BOOT_NS = 1_767_225_600_000_000_000n;
const BETWEEN_BOOTS_NS = 3_600_000_000_000n;
const PER_CHANGE_NS = 1_000_000n;

export class SimulatedMachine {
  readonly durable: Tree;
  readonly log: Change[];
  readonly tree: Tree;
  readonly boots: number;
  readonly boot: number;
  readonly mountings: number;
  readonly mutedPurposes: ReadonlySet<string>;
  readonly pace: () => Promise<void>;
  readonly readOnly: boolean;
  readonly leases = new SimulatedLeases();
  readonly origin: Origin;
  readonly sharesLocks: boolean;
  /** Numbers of the processes that run commands. */
  readonly running = new Set<number>();
  clockNs: bigint;
  #processes = 0;
  #names = 0;
  #fault: Fault | undefined;
  #callsSinceArmed = 0;
  #fired = 0;
  #dead = new Set<object>();
  #locks = new Map<number, HeldLock[]>();

  constructor(start: MachineStart) {
    this.durable = start.durable.fork();
    this.log = [...(start.log ?? [])];
    this.tree = (start.cached ?? start.durable).fork();
    if (!start.cached) for (const change of this.log) applyChange(this.tree, change);
    this.boots = start.boots ?? 0;
    this.boot = start.boot ?? this.boots;
    this.mountings = start.mountings ?? 0;
    this.mutedPurposes = start.mutedPurposes ?? new Set();
    this.pace = start.pace ?? (() => Promise.resolve());
    this.readOnly = start.readOnly ?? false;
    this.origin = start.origin ?? TERMINAL;
    this.sharesLocks = start.sharesLocks ?? true;
    this.clockNs = FIRST_BOOT_NS + BigInt(this.boots) * BETWEEN_BOOTS_NS;
  }

  get bootId(): string {
    return `00000000-0000-4000-8000-${String(this.boot).padStart(12, "0")}`;
  }

  nextPid(): number {
    this.#processes += 1;
    return 1000 * (this.boots + 1) + this.#processes;
  }

  nextName(): string {
    this.#names += 1;
    return (this.boots * 1_000_000 + this.#names).toString(36).padStart(10, "z");
  }

  /** Makes a later changing call fail or kill its process. */
  arm(fault: Fault): void {
    this.#fault = fault;
    this.#callsSinceArmed = 0;
    this.#fired = 0;
  }

  disarm(): void {
    this.#fault = undefined;
  }

  /** How many calls the armed fault has hit. */
  get timesFired(): number {
    return this.#fired;
  }

  /** Throws if the process is no more. Each call asks this first. */
  checkAlive(process: object): void {
    if (this.#dead.has(process)) throw new SimulatedDeath("the process was killed");
  }

  kill(process: object): void {
    this.#dead.add(process);
    this.leases.died(process);
    for (const [inode, locks] of this.#locks) {
      this.#locks.set(
        inode,
        locks.filter((lock) => lock.owner.process !== process),
      );
    }
  }

  perform(process: object, makeChange: (atNs: bigint) => Change): void {
    this.checkAlive(process);
    const change = makeChange(this.clockNs);
    const isFlush = change.kind === "flush";
    if (this.readOnly && !isFlush) {
      throw new ImgtxError("E_READ_ONLY", `Could not use '${change.path}': Read-only file system`, {
        image: change.path,
      });
    }
    this.#meetFault(process, change);
    this.#append(
      isFlush && this.mutedPurposes.has(change.purpose) ? { ...change, outcome: "nothing" } : change,
    );
  }

  #append(change: Change): void {
    this.clockNs += PER_CHANGE_NS;
    this.log.push(change);
    applyChange(this.tree, change);
  }

  #meetFault(process: object, change: Change): void {
    const fault = this.#fault;
    if (!fault) return;
    const call = this.#callsSinceArmed;
    this.#callsSinceArmed += 1;
    if (fault.stays ? call < fault.call || !isHitByLasting(fault, change) : call !== fault.call) return;
    this.#fired += 1;
    if (fault.kind === "death") {
      this.kill(process);
      throw new SimulatedDeath(`the process was killed at call ${call}`);
    }
    // A failed flush leaves its pages marked clean: what it should have made durable never will be.
    if (change.kind === "flush") this.#append({ ...change, outcome: "failed" });
    // A full disk may have taken a part of the write.
    if (change.kind === "write" && fault.kind === "no-space" && change.bytes.length > 1) {
      this.#append({ ...change, bytes: change.bytes.slice(0, Math.floor(change.bytes.length / 2)) });
    }
    const [code, text] =
      fault.kind === "io"
        ? (["E_IO", "Input/output error"] as const)
        : (["E_NO_SPACE", "No space left on device"] as const);
    throw new ImgtxError(code, `Could not use '${change.path}': ${text}`, { image: change.path });
  }

  lock(inode: number, owner: LockOwner, range: ByteRange, kind: LockKind): boolean {
    if (this.wouldConflict(inode, owner, range, kind)) return false;
    this.unlock(inode, owner, range);
    this.#lockList(inode).push({ owner, ...ends(range), kind });
    return true;
  }

  unlock(inode: number, owner: LockOwner, range: ByteRange): void {
    const { start, end } = ends(range);
    const kept = this.#lockList(inode).flatMap((lock): HeldLock[] => {
      if (lock.owner !== owner || lock.end <= start || end <= lock.start) return [lock];
      const before = { ...lock, end: start };
      const behind = { ...lock, start: end };
      return [before, behind].filter((piece) => piece.start < piece.end);
    });
    this.#locks.set(inode, kept);
  }

  unlockAll(inode: number, owner: LockOwner): void {
    this.unlock(inode, owner, { start: 0, lengthBytes: Number.MAX_SAFE_INTEGER });
  }

  wouldConflict(inode: number, owner: LockOwner, range: ByteRange, kind: LockKind): boolean {
    const { start, end } = ends(range);
    return this.#lockList(inode).some(
      (lock) =>
        lock.owner !== owner &&
        (this.sharesLocks || lock.owner.process === owner.process) &&
        lock.start < end &&
        start < lock.end &&
        (kind === "exclusive" || lock.kind === "exclusive"),
    );
  }

  #lockList(inode: number): HeldLock[] {
    const present = this.#locks.get(inode);
    if (present) return present;
    const fresh: HeldLock[] = [];
    this.#locks.set(inode, fresh);
    return fresh;
  }
}

/** The same machine after all its processes died: the host's start, the page cache and the log live on, locks do not. */
export function afterProcessDeath(
  machine: SimulatedMachine,
  changes: Partial<MachineStart> = {},
): SimulatedMachine {
  return new SimulatedMachine({
    durable: machine.durable,
    log: machine.log,
    cached: machine.tree,
    boots: machine.boots + 1,
    boot: machine.boot,
    mountings: machine.mountings,
    mutedPurposes: machine.mutedPurposes,
    sharesLocks: machine.sharesLocks,
    ...changes,
  });
}

function ends(range: ByteRange): { start: number; end: number } {
  return { start: range.start, end: range.start + range.lengthBytes };
}

/** Of a full disk what needs space fails; of a dying one everything does. */
function isHitByLasting(fault: Fault, change: Change): boolean {
  if (fault.kind !== "no-space") return true;
  if (change.kind === "write") return change.grows;
  return change.kind === "name" && ["create", "make folder", "make symlink"].includes(change.operation);
}
