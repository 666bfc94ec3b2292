// Runs the command line in this process, with what it prints caught, and with a stand-in for the engine
// where a test is about the command line alone.
//
// Invariant: a stand-in's function that a test did not give throws, so that no test passes on a call
// that it did not expect.

import type { CliContext, Interrupt, WriteFailure } from "../../../src/cli/context.ts";
import type { Engine } from "../../../src/cli/engine.ts";
import { run } from "../../../src/cli/main.ts";
import { runProgram, SINGLE_FILE } from "../program.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import {
  hasNoSavepoint,
  NO_TRANSACTION,
  requireTransaction,
  TO_SHOW,
  toUseSavepoint,
} from "../../../src/transaction/index.ts";
import type {
  ActionReport,
  ActionRequest,
  DeviceDescription,
  GenerationDescription,
  Outcome,
  RunOptions,
  TransactionDescription,
} from "../../../src/transaction/index.ts";

export interface Result {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunSetting {
  readonly engine?: Partial<Engine>;
  /** Default: the real one. */
  readonly storage?: CliContext["storage"];
  readonly cwd?: string;
  readonly env?: CliContext["env"];
  readonly stdin?: string;
  /** Width of the terminal that both outputs are; without one they are pipes. */
  readonly terminal?: number;
  readonly spawn?: CliContext["spawn"];
  readonly readProgram?: CliContext["readProgram"];
  readonly onInterrupt?: CliContext["onInterrupt"];
  readonly onProgressRequest?: CliContext["onProgressRequest"];
  readonly sharesTerminal?: boolean;
  /** Who sits at the terminal. */
  readonly ask?: CliContext["ask"];
  /** Why nothing that is written to stdout arrives. */
  readonly writeFailure?: WriteFailure;
  readonly program?: CliContext["program"];
}

export async function runCli(argv: readonly string[], setting: RunSetting = {}): Promise<Result> {
  if (SINGLE_FILE !== undefined && setting.cwd !== undefined && isPlain(setting)) {
    return await runProgram(SINGLE_FILE, argv, { ...setting, cwd: setting.cwd });
  }
  const caught = { stdout: "", stderr: "" };
  const outputTo = (name: "stdout" | "stderr") => ({
    write: (text: string) => {
      caught[name] += text;
    },
    isTTY: setting.terminal !== undefined,
    columns: setting.terminal,
  });
  const status = await run(argv, {
    storage: setting.storage ?? makeNodeStorage(),
    cwd: setting.cwd ?? "/srv/guests",
    env: setting.env ?? {},
    stdout: { ...outputTo("stdout"), settled: async () => setting.writeFailure },
    stderr: outputTo("stderr"),
    stdin: async () => setting.stdin ?? "",
    ...(setting.engine && { engine: standIn(setting.engine) }),
    ...(setting.program && { program: setting.program }),
    ...(setting.spawn && { spawn: setting.spawn }),
    ...(setting.readProgram && { readProgram: setting.readProgram }),
    ...(setting.onInterrupt && { onInterrupt: setting.onInterrupt }),
    ...(setting.onProgressRequest && { onProgressRequest: setting.onProgressRequest }),
    ...(setting.ask && { ask: setting.ask }),
    ...(setting.sharesTerminal !== undefined && { sharesTerminal: setting.sharesTerminal }),
  });
  return { status, ...caught };
}

/** Whether a process can be told all of it. */
function isPlain(setting: RunSetting): boolean {
  return Object.keys(setting).every((name) => ["cwd", "env", "stdin", "program"].includes(name));
}

/** An engine with these functions, a session that opens, and nothing else. */
function standIn(functions: Partial<Engine>): Engine {
  const session = { root: "/srv/guests", recovered: [] } as unknown as Awaited<
    ReturnType<Engine["openSession"]>
  >;
  const known: Partial<Engine> = {
    openSession: async () => session,
    listTransactions: async () => [],
    assertChangeable: async () => undefined,
    listKept: async () => [],
    withHolders: async (_session, devices) => [...devices],
    requireTransaction,
    toUseSavepoint,
    hasNoSavepoint,
    NO_TRANSACTION,
    TO_SHOW,
    ...functions,
  };
  return new Proxy(known, {
    get: (target, name) => {
      // Asked by await, of anything that it is given.
      if (name === "then") return undefined;
      const found: unknown = Reflect.get(target, name);
      if (found === undefined) throw new Error(`the test did not expect a call of ${String(name)}`);
      return found;
    },
  });
}

/** An engine that answers every action with an outcome, and keeps what it was asked. */
export function recordingEngine(outcome: Outcome = makeOutcome({})): {
  engine: Partial<Engine>;
  calls: { requests: readonly ActionRequest[]; options: RunOptions }[];
} {
  const calls: { requests: readonly ActionRequest[]; options: RunOptions }[] = [];
  return {
    calls,
    engine: {
      runActions: async (_session, requests, options) => {
        calls.push({ requests, options });
        return outcome;
      },
    },
  };
}

/** Runs a command whose engine throws this. */
export function failWith(error: Error, options: readonly string[] = []): Promise<Result> {
  const engine = {
    runActions: () => {
      throw error;
    },
  };
  return runCli(["rollback", ...options], { engine });
}

export function makeOutcome(parts: Partial<Outcome>): Outcome {
  return {
    changed: true,
    dryRun: false,
    transaction: "7f3k2m9qa1",
    joined: null,
    pending: false,
    kept: [],
    generation: 4,
    snapshots: [],
    actions: [],
    devices: [],
    ...parts,
  };
}

export function makeAction(parts: Partial<ActionReport>): ActionReport {
  return {
    kind: "snapshot",
    device: "vda",
    before: "/srv/guests/a.qcow2",
    after: "/srv/guests/a1.qcow2",
    format: "qcow2",
    files: [{ path: "/srv/guests/a1.qcow2", change: "create" }],
    notes: [],
    snapshotsGivenUp: [],
    layersMerged: [],
    copiedBytes: null,
    rottedBytes: null,
    ...parts,
  };
}

export function makeDevice(parts: Partial<DeviceDescription>): DeviceDescription {
  return {
    name: "vda",
    image: "/srv/guests/a1.qcow2",
    format: "qcow2",
    virtualSizeBytes: 10 * 1024 ** 3,
    chain: [
      { image: "/srv/guests/a1.qcow2", format: "qcow2" },
      { image: "/srv/guests/a.qcow2", format: "qcow2" },
    ],
    frozen: false,
    frozenSince: null,
    frozenBy: null,
    fences: [],
    mirror: null,
    view: "/srv/guests/devices/vda",
    transaction: null,
    problem: null,
    state: "ok",
    problems: [],
    ...parts,
  };
}

export function makeTransaction(parts: Partial<TransactionDescription>): TransactionDescription {
  return {
    id: "7f3k2m9qa1",
    name: null,
    state: "open",
    started: "2012-03-05T14:03:11.000Z",
    user: "root",
    here: true,
    owned: false,
    onError: "keep",
    devices: ["vda"],
    actions: [makeAction({})],
    savepoints: [],
    busy: false,
    problem: null,
    ...parts,
  };
}

export function makeGeneration(parts: Partial<GenerationDescription>): GenerationDescription {
  return {
    generation: 4,
    committed: "2012-03-05T14:03:11.000Z",
    transaction: "7f3k2m9qa1",
    name: null,
    summary: "snapshot vda",
    actions: [],
    undo: false,
    undoForced: false,
    redo: false,
    devices: [],
    present: true,
    problem: null,
    ...parts,
  };
}

/** A process whose interrupts the test sends. */
export function makeInterrupts(): {
  onInterrupt: NonNullable<CliContext["onInterrupt"]>;
  send: (name: Interrupt) => void;
  listeners: () => number;
} {
  const handlers = new Set<(name: Interrupt) => void>();
  return {
    onInterrupt: (handler) => {
      handlers.add(handler);
      return () => handlers.delete(handler);
    },
    send: (name) => {
      for (const handler of handlers) handler(name);
    },
    listeners: () => handlers.size,
  };
}
