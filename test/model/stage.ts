// What a run of the model stands on: a simulated machine with three devices, the command line in this process, cut off
// or not, and what is there to be seen after it, by readers that share no code with src.

import { ELSEWHERE } from "../crash/scenarios/relocate-scenarios.ts";
import { type Guest, guestDigest, openGuest, readHeader } from "../helpers/guest-content.ts";
import { askCommands, CWD, layOut, runCommand } from "../crash/command-line.ts";
import { imageIn } from "../crash/judges/observation.ts";
import { findProblems, readGuest } from "../crash/judges/seen-images.ts";
import { type Answers } from "../crash/judges/observation.ts";
import { filesOf, qcow2, type SampleDevice } from "../crash/scenarios/sample-devices.ts";
import { sampleQcow2, sampleRaw } from "../helpers/sample-image.ts";
import { DiskStates } from "../crash/simulated/disk-states.ts";
import { LookupError, type Tree } from "../crash/simulated/disk-tree.ts";
import { BadState } from "../crash/subject.ts";
import { afterProcessDeath, SimulatedDeath, SimulatedMachine } from "../crash/simulated/simulated-disk.ts";
import { findGuest, writeAsGuest } from "../crash/simulated/simulated-guest.ts";
import { startProcess } from "../crash/simulated/simulated-process.ts";

const KIB = 1024;
const DISK_BYTES = 64 * KIB;
const SMALL = { virtualSizeBytes: DISK_BYTES } as const;

/** A chain, a raw disk, and one of version 2 with small clusters in another folder. */
const DEVICES: readonly SampleDevice[] = [
  {
    name: "vda",
    image: "a.qcow2",
    format: "qcow2",
    files: () => [
      qcow2("ws/golden.qcow2", { ...SMALL, dataClusters: [0, 3, 9], seed: 1 }),
      qcow2("ws/a.qcow2", {
        ...SMALL,
        dataClusters: [3, 7],
        zeroClusters: [0],
        seed: 2,
        backing: { name: "golden.qcow2", format: "qcow2" },
      }),
    ],
  },
  {
    name: "vdb",
    image: "b.raw",
    format: "raw",
    files: () => [{ path: "ws/b.raw", bytes: sampleRaw(DISK_BYTES, 3), mode: 0o600 }],
  },
  {
    name: "vdc",
    image: "../images/c.qcow2",
    format: "qcow2",
    files: () => [
      qcow2("images/c.qcow2", { ...SMALL, dataClusters: [1, 9, 100], seed: 4, clusterBits: 9, version: 2 }),
    ],
  },
];

/** How a command is cut off, or made to fail. */
export interface Cut {
  readonly kind: "death" | "power" | "io" | "no-space";
  /** At which of its calls, as a share of all of them, in thousandths. */
  readonly share: number;
  /** Of a power cut: which choice of what was pending. Of an error: whether it stays. */
  readonly choice: number;
  /** At which call the command after it is killed in turn, where it makes so many. */
  readonly again: number | undefined;
  /** The command after it: `recover`, or one that reads. */
  readonly next: number;
}

export interface Ended {
  readonly exit: number | "killed";
  readonly out: string;
  readonly text: string;
}

type DeviceAnswer = Answers["devices"][number];
type SnapshotAnswer = Answers["snapshots"][number];

interface SeenDevice {
  readonly answer: DeviceAnswer;
  readonly digest: string;
}

export interface SeenSnapshot {
  readonly answer: SnapshotAnswer;
  /** What it keeps of each device, by the image's digest through its chain. */
  readonly digests: ReadonlyMap<string, string>;
  /** All images of the chains of its sealed images, by device. */
  readonly chains: ReadonlyMap<string, readonly string[]>;
}

export interface Seen {
  readonly generation: number;
  readonly devices: ReadonlyMap<string, SeenDevice>;
  readonly snapshots: ReadonlyMap<number, SeenSnapshot>;
  /** What no disk may show. */
  readonly problems: readonly string[];
}

const RECOVERIES = [["recover"], ["device", "list"], ["status"], ["snapshot-list"]] as const;
/** More would mean that recovery comes to no end. */
const MOST_RECOVERIES = 4;
const LEAKED = / is leaked: /;

let prepared: Promise<Tree> | undefined;

async function prepare(): Promise<Tree> {
  const machine = new SimulatedMachine({ durable: await layOut(filesOf(DEVICES, [ELSEWHERE])()) });
  for (const { name, image, format } of DEVICES) {
    const { exit, text } = await runCommand(startProcess(machine), [
      "device",
      "add",
      name,
      image,
      "--format",
      format,
    ]);
    if (exit !== 0) throw new Error(text);
  }
  return machine.tree.rebooted();
}

export async function setStage(): Promise<Stage> {
  return new Stage(await (prepared ??= prepare()));
}

export class Stage {
  machine: SimulatedMachine;
  readonly trail: string[] = [];
  #number = 0;

  constructor(disk: Tree) {
    this.machine = new SimulatedMachine({ durable: disk, boots: 1 });
  }

  /** A number that no file has in its name yet. */
  nextNumber(): number {
    this.#number += 1;
    return this.#number;
  }

  async run(argv: readonly string[]): Promise<Ended> {
    const process = startProcess(this.machine);
    const ended = await runCommand(process, argv);
    this.#tell(argv, ended.exit, ended.text);
    return ended;
  }

  /** Cut off, and recovered then. Its own end, and how recovery ended. */
  async runCutOff(argv: readonly string[], cut: Cut): Promise<Ended> {
    const copy = afterProcessDeath(this.machine);
    const before = copy.log.length;
    await runCommand(startProcess(copy), argv);
    const calls = copy.log.length - before;
    const call = Math.floor((cut.share * calls) / 1000);
    const ended = await this.#runArmed(argv, cut, call);
    if (cut.again !== undefined) {
      await this.#runArmed(RECOVERIES[0], { ...cut, kind: "death" }, cut.again);
    }
    await this.recover(RECOVERIES[cut.next % RECOVERIES.length] ?? RECOVERIES[0]);
    return ended;
  }

  async #runArmed(argv: readonly string[], cut: Cut, call: number): Promise<Ended> {
    const { kind } = cut;
    const isError = kind === "io" || kind === "no-space";
    const { machine } = this;
    machine.arm({ call, kind: isError ? kind : "death", stays: isError && cut.choice % 2 === 1 });
    const process = startProcess(machine);
    const ended = await runCommand(process, argv).catch((error: unknown) => {
      if (error instanceof SimulatedDeath) return { exit: 0, out: "", text: "" };
      throw error;
    });
    const isHit = machine.timesFired > 0;
    machine.disarm();
    if (isError || !isHit) {
      this.#tell(argv, ended.exit, `${isHit ? `[${kind} at call ${call}] ` : ""}${ended.text}`);
      return ended;
    }
    this.machine = kind === "power" ? powerFails(machine, cut.choice) : afterProcessDeath(machine);
    this.#tell(argv, "killed", `[${kind} at call ${call}]`);
    return { ...ended, exit: "killed" };
  }

  async recover(first: readonly string[] = RECOVERIES[0]): Promise<void> {
    for (let round = 0; round < MOST_RECOVERIES; round += 1) {
      const { exit, text } = await this.run(round === 0 ? first : RECOVERIES[0]);
      if (exit === 0 && (round > 0 || first === RECOVERIES[0])) return;
      if (exit !== 0 && round === MOST_RECOVERIES - 1) throw new Error(`recovery does not end: ${text}`);
    }
  }

  /** Undefined where a fence keeps the guest out. */
  async write(device: string, change: { bytes: Uint8Array; offset: number }): Promise<boolean> {
    const guest = findGuest(this.machine, `${CWD}/devices/${device}`);
    const isWritten = guest !== undefined && change.offset + change.bytes.length <= guest.found.length;
    if (isWritten) await writeAsGuest(this.machine, guest, change);
    this.trail.push(
      `guest of ${device} writes ${change.bytes.length} bytes of ${change.bytes[0]} at ${change.offset}${isWritten ? "" : ": kept out"}`,
    );
    return isWritten;
  }

  /** The host is shut down and started anew. */
  restart(): void {
    const { tree, boots } = this.machine;
    this.machine = new SimulatedMachine({ durable: tree.rebooted(), boots: boots + 1 });
    this.trail.push("the host is started anew");
  }

  /** An image that no device is on. */
  async makeImage(path: string, format: string, seed: number): Promise<void> {
    const bytes =
      format === "raw"
        ? sampleRaw(DISK_BYTES, seed)
        : sampleQcow2({ ...SMALL, dataClusters: [seed % 7, 8 + (seed % 5)], seed });
    const file = await startProcess(this.machine).createFile(path, 0o644);
    await file.write(bytes, 0);
    await file.flush("guest");
    await file.close();
    await startProcess(this.machine).flushFolder(path.slice(0, path.lastIndexOf("/")), "guest");
  }

  readBytes(path: string, format: string): Uint8Array {
    const guest = openGuest((file) => imageIn(this.machine.tree, file), path, format);
    return Uint8Array.from(guest.read(0, guest.sizeBytes));
  }

  /** Whether the image is there, and its chain shows these bytes. */
  holds(path: string, format: string, bytes: Uint8Array): boolean {
    try {
      return this.digestOf(path, format) === digestOf(bytes);
    } catch (error) {
      if (error instanceof BadState || error instanceof LookupError) return false;
      throw error;
    }
  }

  digestOf(path: string, format: string): string {
    return readGuest(this.#files(), path, format).digest;
  }

  #files() {
    return { open: (path: string) => imageIn(this.machine.tree, path) };
  }

  async see(): Promise<Seen> {
    const answers = await askCommands(afterProcessDeath(this.machine));
    if (!answers) throw new Error("the workspace is gone");
    const problems: string[] = [];
    const devices = new Map(
      answers.devices.map((answer) => {
        if (answer.problem !== null) problems.push(`${answer.name}: ${answer.problem}`);
        problems.push(...this.#judgeChain(answer.chain), ...this.#judgeView(answer));
        return [answer.name, { answer, digest: this.digestOf(answer.image, answer.format) }] as const;
      }),
    );
    const active = new Map(answers.devices.map(({ name, image }) => [image, name]));
    const snapshots = new Map(
      answers.snapshots.map((answer) => {
        const seen = this.#seeSnapshot(answer);
        problems.push(...judgeSnapshot(seen, active));
        return [answer.number, seen] as const;
      }),
    );
    return { generation: answers.generation, devices, snapshots, problems };
  }

  #seeSnapshot(answer: SnapshotAnswer): SeenSnapshot {
    const digests = new Map<string, string>();
    const chains = new Map<string, readonly string[]>();
    for (const { device, image, format } of answer.devices) {
      const chain: string[] = [];
      const open = (path: string) => {
        chain.push(path);
        return imageIn(this.machine.tree, path);
      };
      digests.set(device, readGuest({ open }, image, format).digest);
      chains.set(device, chain);
    }
    return { answer, digests, chains };
  }

  #judgeChain(chain: DeviceAnswer["chain"]): string[] {
    return chain
      .filter(({ format }) => format === "qcow2")
      .flatMap(({ image }) => {
        const { isFenced } = readHeader(imageIn(this.machine.tree, image), image);
        const found = findProblems(this.#files(), image).filter((one) => !LEAKED.test(one));
        return [...(isFenced ? [`${image} is fenced`] : []), ...found.map((one) => `${image}: ${one}`)];
      });
  }

  #judgeView({ name, image }: DeviceAnswer): string[] {
    const shown = this.machine.tree.lookUp(`${CWD}/devices/${name}`, true).path;
    return shown === image ? [] : [`devices/${name} shows ${shown}, not ${image}`];
  }

  #tell(argv: readonly string[], exit: number | "killed", text: string): void {
    this.trail.push(`imgtx ${argv.join(" ")}: ${exit}: ${text.trim().split("\n\n")[0]}`);
  }
}

function judgeSnapshot({ answer, chains }: SeenSnapshot, active: ReadonlyMap<string, string>): string[] {
  const of = `snapshot ${answer.number}`;
  const problems = answer.problem === null ? [] : [`${of}: ${answer.problem}`];
  for (const { device, problems: found } of answer.devices) {
    problems.push(...found.map((one) => `${of}, of ${device}: ${one}`));
    const writer = chains.get(device)?.flatMap((one) => active.get(one) ?? [])[0];
    if (writer !== undefined) problems.push(`${of}: what it keeps of ${device} is written to by ${writer}`);
  }
  return problems;
}

function powerFails(machine: SimulatedMachine, choice: number): SimulatedMachine {
  const states = new DiskStates(machine.durable);
  for (const change of machine.log) states.advance(change);
  const limits = { exhaustiveItems: 2, randomSubsets: 6, most: 8 };
  const found = [...states.states(limits, choice)];
  const state = found[choice % found.length];
  if (!state) throw new Error("a disk has a state");
  return new SimulatedMachine({ durable: state.tree, boots: machine.boots + 1 });
}

export function digestOf(bytes: Uint8Array): string {
  const guest: Guest = { sizeBytes: bytes.length, read: (at, length) => bytes.subarray(at, at + length) };
  return guestDigest(guest);
}
