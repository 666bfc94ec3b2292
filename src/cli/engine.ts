// The transaction layer as the command line sees it. Named here so that it is loaded only by commands
// that get as far as needing it (`--help` and usage errors do not), and so that tests can stand in for it.

import type {
  ActionRequest,
  DeviceDescription,
  GenerationDescription,
  LockWait,
  Outcome,
  RecoveryNote,
  RunOptions,
  TransactionDescription,
} from "../transaction/index.ts";
import type { Storage } from "../storage/index.ts";

export interface Session {
  readonly root: string;
  readonly recovered: readonly RecoveryNote[];
}

export interface SessionOptions extends LockWait {
  readonly startFolder: string;
  readonly workspace: string | undefined;
  readonly createHere: boolean;
  readonly allowPaths: readonly string[];
}

export interface Engine {
  initWorkspace(storage: Storage, folder: string): Promise<{ root: string; created: boolean }>;
  openSession(storage: Storage, options: SessionOptions): Promise<Session>;
  runActions(session: Session, requests: readonly ActionRequest[], options: RunOptions): Promise<Outcome>;
  beginTransaction(
    session: Session,
    options: { name: string | undefined; onError: "abort" | "keep"; owned: boolean },
    wait: LockWait,
  ): Promise<{ description: TransactionDescription; release(): Promise<void> }>;
  commitTransaction(session: Session, id: string | undefined, options: RunOptions): Promise<Outcome>;
  abortTransaction(session: Session, id: string | undefined, options: RunOptions): Promise<Outcome>;
  makeSavepoint(session: Session, id: string | undefined, name: string, wait: LockWait): Promise<Outcome>;
  rollbackToSavepoint(
    session: Session,
    id: string | undefined,
    name: string,
    wait: LockWait,
  ): Promise<Outcome>;
  listTransactions(session: Session): Promise<readonly TransactionDescription[]>;
  describeDevices(
    session: Session,
    names: readonly string[] | undefined,
  ): Promise<{ generation: number; devices: readonly DeviceDescription[] }>;
  listGenerations(session: Session): Promise<readonly GenerationDescription[]>;
}
