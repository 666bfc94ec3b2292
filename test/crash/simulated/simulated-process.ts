// One process on a simulated machine: the Storage that the code under test gets. Each call first gives
// way, so that a call nobody awaits shows as a reordering, as it would on a real machine.

import type {
  FileStat,
  FileSystemTraits,
  Holder,
  Space,
  Host,
  OpenOptions,
  Reservation,
  Storage,
  StorageFile,
} from "../../../src/storage/index.ts";
import type { NameChange } from "./disk-log.ts";
import { Content } from "./content.ts";
import { makeInode, type Inode, type Place, type Slot } from "./disk-tree.ts";
import type { SimulatedMachine } from "./simulated-disk.ts";
import { SimulatedDeviceFile } from "./simulated-device-file.ts";
import { SimulatedFile } from "./simulated-file.ts";
import { runProvisioner } from "./simulated-provisioner.ts";
import { problem, statOfInode } from "./simulated-stat.ts";

const MACHINE_ID = "0123456789abcdef0123456789abcdef";

export function startProcess(machine: SimulatedMachine): SimulatedProcess {
  return new SimulatedProcess(machine);
}

export class SimulatedProcess implements Storage {
  readonly machine: SimulatedMachine;
  readonly host: Host;

  constructor(machine: SimulatedMachine) {
    this.machine = machine;
    const pid = machine.nextPid();
    this.host = {
      pid,
      userId: 0,
      userName: "tester",
      nameOfUser: (id) => `#${id}`,
      groupsOfUser: () => undefined,
      currentFolder: "/disks/ws",
      temporaryFolder: "/",
      bootId: machine.bootId,
      machineId: MACHINE_ID,
      origin: machine.origin,
      process: { pid, started: "1", processes: "", boot: machine.bootId, machine: MACHINE_ID },
      lifeOf: (mark) => {
        if (mark.boot !== machine.bootId) return "gone";
        if (mark.pid === pid) return "self";
        // Where all see its locks, these go with it, and tell all that there is to know.
        return !machine.sharesLocks && machine.running.has(mark.pid) ? "alive" : "gone";
      },
      now: () => Number(machine.clockNs / 1_000_000n),
      monotonicMs: () => Number(machine.clockNs / 1_000_000n),
      runProgram: async (command, { env }) => await runProvisioner(this, command, env),
      randomName: () => machine.nextName(),
      sleep: async (milliseconds) => {
        machine.clockNs += BigInt(Math.ceil(milliseconds)) * 1_000_000n;
        await new Promise((resume) => setImmediate(resume));
        machine.checkAlive(this);
      },
    };
  }

  async openFile(path: string, access: "read" | "write", options: OpenOptions = {}): Promise<StorageFile> {
    await this.turn();
    const inode = this.#existing(path, options.refuseSymlink !== true);
    const isDevice = inode.kind === "device";
    if (isDevice && options.mayBeDevice !== true) throw problem("E_NOT_A_FILE", path, "it is a block device");
    if (inode.kind !== "file" && !isDevice) throw problem("E_NOT_A_FILE", path, "Is a directory");
    if (access === "write" && this.machine.readOnly)
      throw problem("E_READ_ONLY", path, "Read-only file system");
    if (access === "write") {
      while (this.machine.leases.mustWait(this, inode.number)) await this.host.sleep(1);
    }
    return isDevice
      ? new SimulatedDeviceFile(this, inode.number, path, access)
      : new SimulatedFile(this, inode.number, path, access);
  }

  async createFile(path: string, mode: number): Promise<StorageFile> {
    await this.turn();
    const place = this.#lookUp(path, false);
    if (place.inode) throw problem("E_EXISTS", path, "File exists");
    const number = this.machine.tree.freeNumber();
    this.#changeName("create", path, [{ ...slotOf(place), inode: number }], (atNs) =>
      makeInode(number, "file", mode, atNs, { disk: this.#diskOf(place) }),
    );
    return new SimulatedFile(this, number, path, "write");
  }

  async stat(path: string): Promise<FileStat | undefined> {
    await this.turn();
    return this.#statOf(path, true);
  }

  async statLink(path: string): Promise<FileStat | undefined> {
    await this.turn();
    return this.#statOf(path, false);
  }

  /** There are none here, as on some file systems. */
  async readAttribute(): Promise<undefined> {
    await this.turn();
    return undefined;
  }

  async setAttribute(): Promise<boolean> {
    await this.turn();
    return false;
  }

  async describeFileSystem(path: string): Promise<FileSystemTraits> {
    await this.turn();
    this.#existing(path, true);
    return { keepsInodes: true, keepsModes: true, sharesLocks: this.machine.sharesLocks };
  }

  async reserveSpace(): Promise<Reservation> {
    await this.turn();
    return { release: async () => await this.turn() };
  }

  async realPath(path: string): Promise<string> {
    await this.turn();
    const place = this.#lookUp(path, true);
    if (!place.inode) throw problem("E_NOT_FOUND", path, "No such file or directory");
    return place.path;
  }

  async readFolder(path: string): Promise<string[]> {
    await this.turn();
    return [...this.#folder(path).names.keys()].sort();
  }

  async readKinds(path: string): Promise<{ names: string[]; special: string[] }> {
    await this.turn();
    const all = [...this.#folder(path).names];
    const special = all.filter(
      ([, number]) => !["file", "folder"].includes(this.machine.tree.get(number).kind),
    );
    return { names: all.map(([name]) => name), special: special.map(([name]) => name) };
  }

  async makeFolder(path: string, mode: number): Promise<void> {
    await this.turn();
    const place = this.#lookUp(path, false);
    if (place.inode) throw problem("E_EXISTS", path, "File exists");
    const number = this.machine.tree.freeNumber();
    this.#changeName("make folder", path, [{ ...slotOf(place), inode: number }], (atNs) =>
      makeInode(number, "folder", mode, atNs, { disk: this.#diskOf(place) }),
    );
  }

  async removeFolder(
    path: string,
    { onlyEmpty = false }: { readonly onlyEmpty?: boolean } = {},
  ): Promise<void> {
    await this.turn();
    const place = this.#lookUp(path, false);
    if (!place.inode) return;
    if (place.inode.kind !== "folder") throw problem("E_NOT_A_FILE", path, "Not a directory");
    if (onlyEmpty && place.inode.names.size > 0) throw problem("E_EXISTS", path, "Directory not empty");
    await this.#removeAllIn(place.inode, path);
    this.#changeName("remove folder", path, [{ ...slotOf(place), inode: null }]);
  }

  async #removeAllIn(folder: Inode, path: string): Promise<void> {
    for (const [name, number] of new Map(folder.names)) {
      const child = this.machine.tree.get(number);
      const slots = [{ folder: folder.number, name, inode: null }];
      if (child.kind === "folder") await this.#removeAllIn(child, `${path}/${name}`);
      await this.turn();
      this.#changeName(child.kind === "folder" ? "remove folder" : "unlink", `${path}/${name}`, slots);
    }
  }

  async flushFolder(path: string, purpose: string): Promise<void> {
    await this.turn();
    const inode = this.#folder(path).number;
    this.machine.perform(this, (atNs) => ({
      kind: "flush",
      inode,
      of: "folder",
      path,
      purpose,
      atNs,
      outcome: "persists",
    }));
  }

  async rename(source: string, target: string): Promise<void> {
    await this.turn();
    this.#move(source, target, true);
  }

  async renameWithoutReplacing(source: string, target: string): Promise<void> {
    await this.turn();
    this.#move(source, target, false);
  }

  #move(source: string, target: string, replacing: boolean): void {
    const from = this.#lookUp(source, false);
    const to = this.#lookUp(target, false);
    if (!from.inode) throw problem("E_NOT_FOUND", source, "No such file or directory");
    this.#keepDevice(from);
    this.#keepDevice(to);
    if (to.inode && !replacing) throw problem("E_EXISTS", target, "File exists");
    if (to.inode?.number === from.inode.number) return;
    if (to.inode && (to.inode.kind === "folder") !== (from.inode.kind === "folder")) {
      throw problem("E_NOT_A_FILE", target, "Not a directory");
    }
    if (this.#diskOf(from) !== this.#diskOf(to)) throw problem("E_IO", target, "Invalid cross-device link");
    if (to.inode && to.inode.names.size > 0) throw problem("E_EXISTS", target, "Directory not empty");
    this.#changeName("rename", `${source} -> ${target}`, [
      { ...slotOf(from), inode: null },
      { ...slotOf(to), inode: from.inode.number },
    ]);
  }

  async removeFile(path: string): Promise<void> {
    await this.turn();
    const place = this.#lookUp(path, false);
    if (!place.inode) throw problem("E_NOT_FOUND", path, "No such file or directory");
    if (place.inode.kind === "folder") throw problem("E_NOT_A_FILE", path, "Is a directory");
    this.#keepDevice(place);
    this.#changeName("unlink", path, [{ ...slotOf(place), inode: null }]);
  }

  async makeSymlink(target: string, path: string, like?: string): Promise<void> {
    await this.turn();
    const place = this.#lookUp(path, false);
    if (place.inode) throw problem("E_EXISTS", path, "File exists");
    const there = like === undefined ? "missing" : this.machine.tree.find(like, false);
    if (typeof there !== "string" && there.inode?.kind === "symlink" && there.inode.target === target) {
      this.#changeName("make symlink", path, [{ ...slotOf(place), inode: there.inode.number }]);
      return;
    }
    const number = this.machine.tree.freeNumber();
    this.#changeName("make symlink", path, [{ ...slotOf(place), inode: number }], (atNs) =>
      makeInode(number, "symlink", 0o777, atNs, { target, disk: this.#diskOf(place) }),
    );
  }

  async setOwner(path: string): Promise<void> {
    await this.turn();
    this.#existing(path, false);
  }

  async readSymlink(path: string): Promise<string> {
    await this.turn();
    const inode = this.#existing(path, false);
    if (inode.kind !== "symlink") throw problem("E_IO", path, "Invalid argument");
    return inode.target;
  }

  async findHolders(): Promise<Holder[]> {
    await this.turn();
    return [];
  }

  async findAllHolders(stats: readonly FileStat[]): Promise<Holder[][]> {
    await this.turn();
    return stats.map(() => []);
  }

  async measureSpace(): Promise<Space> {
    await this.turn();
    return { freeBytes: 2 ** 40, totalBytes: 2 ** 40 };
  }

  /** As a provisioner does, which flushes the folder then. */
  async makeVolume(path: string, sizeBytes: number): Promise<void> {
    await this.turn();
    const place = this.#lookUp(path, false);
    const number = this.machine.tree.freeNumber();
    this.#changeName("create", path, [{ ...slotOf(place), inode: number }], (atNs) => ({
      ...makeInode(number, "device", 0o660, atNs, { disk: this.#diskOf(place) }),
      content: Content.of(new Uint8Array(sizeBytes)),
    }));
  }

  async dropVolume(path: string): Promise<void> {
    await this.turn();
    this.#changeName("unlink", path, [{ ...slotOf(this.#lookUp(path, false)), inode: null }]);
  }

  /** Never smaller. */
  async extendVolume(path: string, sizeBytes: number): Promise<void> {
    await this.turn();
    const { number, content } = this.#existing(path, true);
    if (content.sizeBytes >= sizeBytes) return;
    this.machine.perform(this, (atNs) => ({ kind: "truncate", inode: number, path, sizeBytes, atNs }));
    this.machine.perform(this, (atNs) => ({
      kind: "flush",
      inode: number,
      of: "file",
      path,
      purpose: "volume extended",
      atNs,
      outcome: "persists",
    }));
  }

  /** Gives way to whatever else runs, then goes on if the process is still alive. */
  async turn(): Promise<void> {
    await this.machine.pace();
    this.machine.checkAlive(this);
  }

  #changeName(
    operation: NameChange["operation"],
    path: string,
    slots: readonly Slot[],
    born?: (atNs: bigint) => Inode,
  ): void {
    this.machine.perform(this, (atNs) => ({
      kind: "name",
      operation,
      path,
      atNs,
      slots,
      born: born?.(atNs),
    }));
  }

  #statOf(path: string, follow: boolean): FileStat | undefined {
    const place = this.machine.tree.find(path, follow);
    if (typeof place === "string" || !place.inode) return undefined;
    return statOfInode(place.inode, this.machine);
  }

  #diskOf({ folder }: Place): number {
    return this.machine.tree.get(folder).disk;
  }

  /** Nothing of imgtx's ever takes the node of a device away: that is a bug, and no error that could be met. */
  #keepDevice({ inode, path }: Place): void {
    if (inode?.kind === "device")
      throw new Error(`simulated disk: the device '${path}' was to lose its name`);
  }

  #folder(path: string): Inode {
    const inode = this.#existing(path, true);
    if (inode.kind !== "folder") throw problem("E_NOT_A_FILE", path, "Not a directory");
    return inode;
  }

  #existing(path: string, follow: boolean): Inode {
    const { inode } = this.#lookUp(path, follow);
    if (!inode) throw problem("E_NOT_FOUND", path, "No such file or directory");
    return inode;
  }

  #lookUp(path: string, follow: boolean): Place {
    if (!path.startsWith("/")) throw new Error(`simulated disk: ${path} is not absolute`);
    const place = this.machine.tree.find(path, follow);
    if (typeof place !== "string") return place;
    if (place === "missing") throw problem("E_NOT_FOUND", path, "No such file or directory");
    throw problem("E_NOT_A_FILE", path, place);
  }
}

function slotOf(place: Place): { folder: number; name: string } {
  return { folder: place.folder, name: place.name };
}
