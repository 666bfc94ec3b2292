// A workspace on the real disk for one test, and short ways to work in it through the session API. Every
// call opens a session of its own, as every command does.

import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import {
  abortTransaction,
  type ActionRequest,
  beginTransaction,
  commitTransaction,
  describeDevices,
  type DeviceDescription,
  listTransactions,
  makeSavepoint,
  openSession,
  type Outcome,
  rollbackToSavepoint,
  runActions,
  type RunOptions,
  type Session,
  type SnapshotRequest,
  type TransactionDescription,
} from "../../../src/transaction/index.ts";
import { readTable } from "../../../src/device/index.ts";
import { guestDigest, openGuest, openHostImage } from "../guest-content.ts";
import { sampleQcow2, sampleRaw } from "../sample-image.ts";
import { makeFolder } from "../temporary-folder.ts";
import { untilSettled } from "../until-settled.ts";

export const NO_WAIT = { waitMs: 0, onWait: () => undefined };
const SMALL_DISK_BYTES = 192 * 1024;

export const RUN_ALONE: RunOptions = {
  ...NO_WAIT,
  transaction: undefined,
  standalone: false,
  dryRun: false,
  allowPaths: [],
  signal: undefined,
};

export class Workbench {
  readonly root: string;
  readonly storage: Storage;

  constructor(root: string, storage: Storage = makeNodeStorage()) {
    this.root = root;
    this.storage = storage;
  }

  /** The same folder seen through another storage: one that fails, or counts. */
  through(storage: Storage): Workbench {
    return new Workbench(this.root, storage);
  }

  /** The same folder, for commands from another place: another login, a job of cron. */
  elsewhere(): Workbench {
    const { host } = this.storage;
    const origin = { ...host.origin, login: null, sessions: [{ id: 1, started: "1" }], ancestors: [] };
    return this.through({ ...this.storage, host: { ...host, origin } });
  }

  /** Absolute, of a name in the workspace. */
  at(name: string): string {
    return path.isAbsolute(name) ? name : path.join(this.root, name);
  }

  /** A qcow2 image with some data, over a backing file where one is named. */
  makeQcow2(name: string, seed: number, backing?: { name: string; format: "qcow2" | "raw" }): string {
    const bytes = sampleQcow2({
      virtualSizeBytes: SMALL_DISK_BYTES,
      dataClusters: backing ? [1, 5] : [0, 3, 40],
      seed,
      ...(backing && { backing }),
    });
    return this.makeFile(name, bytes);
  }

  makeRaw(name: string, seed: number): string {
    return this.makeFile(name, sampleRaw(SMALL_DISK_BYTES, seed));
  }

  makeFile(name: string, bytes: Uint8Array | string): string {
    const file = this.at(name);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, bytes);
    return file;
  }

  async session(createHere = false): Promise<Session> {
    return await openSession(this.storage, {
      ...NO_WAIT,
      startFolder: this.root,
      workspace: undefined,
      createHere,
    });
  }

  async run(
    requests: ActionRequest | readonly ActionRequest[],
    options: Partial<RunOptions> = {},
  ): Promise<Outcome> {
    const list = Array.isArray(requests)
      ? (requests as readonly ActionRequest[])
      : [requests as ActionRequest];
    return await runActions(await this.session(), list, { ...RUN_ALONE, ...options });
  }

  async add(device: string, file: string, format?: "qcow2" | "raw"): Promise<Outcome> {
    const request = { kind: "device-add" as const, device, file: this.at(file), format, allowPaths: [] };
    await untilSettled(...readdirSync(this.root).map((name) => this.at(name)));
    return await runActions(await this.session(true), [request], { ...RUN_ALONE, standalone: true });
  }

  async remove(device: string): Promise<Outcome> {
    return await this.run({ kind: "device-remove", device }, { standalone: true });
  }

  /** snapshot({ vda: "a1.qcow2" }): a group of as many as are named. */
  async snapshot(
    files: Readonly<Record<string, string>>,
    how: Partial<SnapshotRequest> = {},
    options: Partial<RunOptions> = {},
  ): Promise<Outcome> {
    return await this.run(this.snapshotRequest(files, how), options);
  }

  snapshotRequest(
    files: Readonly<Record<string, string>>,
    how: Partial<SnapshotRequest> = {},
  ): SnapshotRequest {
    const targets = Object.entries(files).map(([device, file]) => ({
      device,
      file: this.at(file),
      format: "qcow2",
    }));
    return {
      kind: targets.length === 1 ? "snapshot" : "snapshot-group",
      targets,
      relative: false,
      reuse: false,
      overlay: {},
      ...how,
    };
  }

  async reopen(device: string, file: string, options: Partial<RunOptions> = {}): Promise<Outcome> {
    const request = { kind: "reopen" as const, device, file: this.at(file), format: undefined, force: false };
    return await this.run(request, options);
  }

  /** Takes the last commit back, or as many as lead to that generation. */
  async undo(generation?: number): Promise<Outcome> {
    for (;;) {
      const outcome = await this.run({ kind: "undo", isForward: false, force: false });
      if (generation === undefined || (await this.position()) <= generation) return outcome;
    }
  }

  /** The generation whose state the table has. */
  async position(): Promise<number> {
    const { generation, position = generation } = await readTable((await this.session()).workspace);
    return position;
  }

  async rollback(to?: string, devices: readonly string[] = []): Promise<Outcome> {
    return await this.run({ kind: "rollback", devices, to, isDiscarding: false });
  }

  async begin(name?: string, onError: "abort" | "keep" = "keep"): Promise<string> {
    const choice = { name, onError, owned: false };
    const begun = await beginTransaction(await this.session(), choice, NO_WAIT);
    await begun.release();
    return begun.description.id;
  }

  async commit(id?: string, options: Partial<RunOptions> = {}): Promise<Outcome> {
    return await commitTransaction(await this.session(), id, { ...RUN_ALONE, ...options });
  }

  async abort(id?: string, options: Partial<RunOptions> = {}): Promise<Outcome> {
    return await abortTransaction(await this.session(), id, { ...RUN_ALONE, ...options });
  }

  async savepoint(name: string, id?: string): Promise<Outcome> {
    return await makeSavepoint(await this.session(), id, name, NO_WAIT);
  }

  async rollbackTo(name: string, id?: string): Promise<Outcome> {
    return await rollbackToSavepoint(await this.session(), id, name, NO_WAIT);
  }

  async open(): Promise<TransactionDescription[]> {
    return await listTransactions(await this.session());
  }

  async devices(): Promise<DeviceDescription[]> {
    return (await describeDevices(await this.session(), undefined)).devices;
  }

  /** The active layer of each device, relative to the workspace where it lies in it. */
  async images(): Promise<Record<string, string>> {
    const devices = await this.devices();
    return Object.fromEntries(devices.map(({ name, image }) => [name, path.relative(this.root, image)]));
  }

  async generation(): Promise<number> {
    return (await describeDevices(await this.session(), [])).generation;
  }

  /** Each device's guest content, read without the code under test. */
  async content(): Promise<Record<string, string>> {
    const devices = await this.devices();
    return Object.fromEntries(
      devices.map(({ name, image, format }) => [name, guestDigest(openGuest(openHostImage, image, format))]),
    );
  }
}

/** A workspace with the devices vda (qcow2 over a base, relative), vdb (raw) and vdc (qcow2): generation 3. */
export async function makeWorkbench(root = makeFolder()): Promise<Workbench> {
  const bench = new Workbench(root);
  bench.makeRaw("base.raw", 1);
  bench.makeQcow2("a.qcow2", 2, { name: "base.raw", format: "raw" });
  bench.makeRaw("b.raw", 3);
  bench.makeQcow2("c.qcow2", 4);
  await bench.add("vda", "a.qcow2");
  await bench.add("vdb", "b.raw", "raw");
  await bench.add("vdc", "c.qcow2");
  return bench;
}
