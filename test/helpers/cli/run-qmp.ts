// Runs a batch of QMP with a stand-in for the engine that keeps what it was asked, in order.

import type { ActionRequest, DeviceDescription, RunOptions } from "../../../src/transaction/index.ts";
import type { Engine } from "../../../src/cli/engine.ts";
import { makeOutcome, makeTransaction, runCli, type RunSetting } from "./harness.ts";

export type Call =
  | { readonly kind: "run"; readonly requests: readonly ActionRequest[]; readonly options: RunOptions }
  | { readonly kind: "begin"; readonly owned: boolean }
  | { readonly kind: "release" }
  | { readonly kind: "commit" | "abort"; readonly transaction: string | undefined };

export interface QmpSetting {
  readonly argv?: readonly string[];
  readonly devices?: readonly DeviceDescription[];
  /** Throws for the requests that are to fail. */
  readonly onRun?: (requests: readonly ActionRequest[]) => void;
  readonly onCommit?: () => void;
  readonly onAbort?: () => void;
  readonly cli?: RunSetting;
}

export const STARTED = "started123";

export async function runQmp(batch: unknown, setting: QmpSetting = {}) {
  const calls: Call[] = [];
  const engine: Partial<Engine> = {
    describeDevices: async () => ({ generation: 1, devices: [...(setting.devices ?? [])] }),
    runActions: async (_session, requests, options) => {
      calls.push({ kind: "run", requests: [...requests], options });
      setting.onRun?.(requests);
      return makeOutcome({ pending: options.transaction !== undefined, dryRun: options.dryRun });
    },
    beginTransaction: async (_session, { owned }) => {
      calls.push({ kind: "begin", owned });
      return {
        description: makeTransaction({ id: STARTED }),
        release: async () => {
          calls.push({ kind: "release" });
        },
      };
    },
    commitTransaction: async (_session, transaction) => {
      calls.push({ kind: "commit", transaction });
      setting.onCommit?.();
      return makeOutcome({});
    },
    abortTransaction: async (_session, transaction) => {
      calls.push({ kind: "abort", transaction });
      setting.onAbort?.();
      return makeOutcome({});
    },
  };
  const stdin = typeof batch === "string" ? batch : JSON.stringify(batch);
  const result = await runCli(["txn", "run", "-", ...(setting.argv ?? [])], {
    engine,
    stdin,
    ...setting.cli,
  });
  const answers = result.stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const requests = calls.flatMap((call) => (call.kind === "run" ? call.requests : []));
  return { ...result, calls, answers, requests };
}
