// What a walk stands on: the command line to run, a guest, a disk to take away, recovery to its end, and the model that
// is held against what is there.

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from "node:fs";
import { join } from "node:path";
import { type Random, seededRandom } from "../helpers/random.ts";
import { applyEffects, assertNames, type Effect, withNames } from "./effects.ts";
import type { Ground, Move } from "./ground.ts";
import { assertSealed, listSealed } from "./sealed.ts";
import { type Cut, type Ended, guestWrites, type Place, runImgtx } from "./tools.ts";
import {
  assertContent,
  assertView,
  byNamesOf,
  CELL_BYTES,
  type Content,
  type Device,
  Fault,
  findLeftovers,
  isFenced,
  isSame,
  listDevices,
  type Listed,
  type Listing,
  NO_WORLD,
  readContent,
  listSnapshots,
  sayEnd,
  slotOf,
  viewOf,
  type World,
  worldFrom,
} from "./world.ts";

export interface WalkOptions {
  readonly program: string;
  /** An empty folder that is there. */
  readonly folder: string;
  readonly seed: number;
  readonly steps: number;
  /** Looked at before each step: a walk on a slow machine is shorter, and no fault. */
  readonly deadline: number;
  readonly say?: (line: string) => void;
  readonly runsHere?: boolean;
}

const LONGEST_CHAIN = 14;

export class Walker {
  readonly trail: string[] = [];
  readonly figures: Record<string, number> = {};
  readonly place: Place;
  readonly random: Random;
  readonly say: ((line: string) => void) | undefined;
  readonly folders: readonly string[];
  world: World = NO_WORLD;
  number = 0;
  /** Before the last command, and before what guests wrote since. */
  #atCut: World = NO_WORLD;
  readonly #writtenSince = new Map<string, ((content: Content) => Content)[]>();
  /** What devices held, before a guest wrote to an image that the model does not have them on yet. */
  readonly #heldBefore = new Map<string, Content>();
  /** Devices that left behind, by a way out that said so, what was written since. */
  readonly #leftBehind = new Set<string>();
  /** The moves of the transaction that is open. */
  open: { readonly id: string; readonly moves: Move[] } | undefined;
  #listing: Listing | undefined;
  /** The generation whose snapshots were looked at last. */
  #sealedAt = -1;
  /** Whether nothing has run since it was listed. */
  #isListed = false;

  constructor({ program, folder, seed, say, runsHere = false }: WalkOptions) {
    this.place = { program, cwd: join(folder, "ws"), reports: join(folder, "reports"), runsHere };
    this.random = seededRandom(seed);
    this.say = say;
    this.folders = ["A", "B", "C"].map((name) => join(folder, name));
  }

  pickName(): string | undefined {
    const names = [...this.world.devices.keys()];
    return names[this.random.below(names.length)];
  }

  /** Writes through the view, in place or not, and perhaps puts the time back. Has the model know of it. */
  guest(name: string): void {
    const device = this.world.devices.get(name);
    const slot = slotOf(name);
    const view = viewOf(this.place, slot);
    if (!device || view === undefined) return;
    const image = realpathSync(view);
    const format = this.formatOf(image, name);
    const cells = device.content.length;
    const cell = this.random.below(cells);
    const count = 1 + this.random.below(Math.min(4, cells - cell));
    const pattern = 1 + this.random.below(255);
    const isHeld = device.frozen && this.hasFence(name);
    const times = statSync(image, { bigint: true });
    const lies = this.random.below(8) === 0;
    const write = { pattern, offset: cell * CELL_BYTES, lengthBytes: count * CELL_BYTES };
    const dies = this.random.below(8) === 0;
    const isWritten = guestWrites(view, format, write, dies);
    const more = `${dies ? ", and died" : ""}${lies ? ", time put back" : ""}`;
    this.tell(`guest of ${name} on ${image} cells ${cell}+${count} := ${pattern}: ${isWritten}${more}`);
    if (!isWritten) return;
    if (isHeld) throw new Fault(`a guest could write to ${name}, which is frozen by a fence`);
    this.count("guest writes");
    if (lies) utimesSync(image, Number(times.atimeNs) / 1e9, Number(times.mtimeNs) / 1e9);
    const written = (content: Content): Content => content.slice().fill(pattern, cell, cell + count);
    this.#writtenSince.set(slot, [...(this.#writtenSince.get(slot) ?? []), written]);
    // After a crash the view may lead to an image already that the model does not have the device on yet.
    const isElsewhere = !isOn(device, image);
    if (isElsewhere && !this.#heldBefore.has(slot)) this.#heldBefore.set(slot, device.content);
    const known = isElsewhere ? this.world.left.get(image) : undefined;
    const left = known ? new Map(this.world.left).set(image, written(known)) : this.world.left;
    const now = { ...device, content: written(device.content) };
    this.world = { ...this.world, left, devices: new Map(this.world.devices).set(name, now) };
  }

  formatOf(image: string, name: string): string {
    const device = this.world.devices.get(name);
    if (device && isOn(device, image)) return device.format;
    return readFileSync(image).subarray(0, 4).toString("latin1") === "QFI\u00fb" ? "qcow2" : "raw";
  }

  hasFence(name: string): boolean {
    const device = this.world.devices.get(name);
    return device?.format === "qcow2" && existsSync(device.image) && isFenced(device.image);
  }

  takeAway(): boolean {
    const folder = this.folders[1] ?? "";
    renameSync(folder, `${folder}.away`);
    // The mount point that stays.
    mkdirSync(folder);
    this.tell("disk B is away");
    return true;
  }

  bringBack(): void {
    const folder = this.folders[1] ?? "";
    rmSync(folder, { recursive: true });
    renameSync(`${folder}.away`, folder);
    this.tell("disk B is back");
  }

  /** Before a command whose end `follow` is asked about. */
  mark(): void {
    this.#atCut = this.world;
    this.#writtenSince.clear();
  }

  follow(move: Move, listing: Listing, choice: string | undefined): void {
    const before = byNamesOf(listing, this.world);
    this.#atCut = byNamesOf(listing, this.#atCut);
    const hasMoved = listing.generation > before.generation;
    const effects = hasMoved ? (move.effects ?? []) : [];
    if (move.content === "own" && choice === undefined) assertNames(this.world, listing, effects);
    this.world = worldFrom(
      listing,
      (device) => {
        const was = before.devices.get(device.name);
        if (!was) throw new Fault(`${device.name} came out of nothing`);
        if (was.image !== device.image && !hasMoved) {
          throw new Fault(`${device.name} went to ${device.image}, and no generation was made`);
        }
        if (was.image !== device.image && move.content === "the image's") {
          const held = before.left.get(device.image);
          if (held) return held;
          throw new Fault(
            `${device.name} went to ${device.image}, which holds what nobody knows (${choice ?? ""})`,
          );
        }
        return this.#contentOf(device, was, { effects, choice });
      },
      before,
    );
    this.#followSnapshots(effects, choice);
    const left = new Map(this.world.left);
    for (const [name, { image }] of before.devices) {
      const content = this.#heldBefore.get(slotOf(name));
      if (content && this.world.devices.get(name)?.image !== image) left.set(image, content);
    }
    this.world = { ...this.world, left };
    this.#heldBefore.clear();
    this.#leftBehind.clear();
    for (const name of before.devices.keys()) {
      if (!this.world.devices.has(name)) throw new Fault(`${name} has gone`);
    }
  }

  /** With what changes in place made of it; what guests wrote after the command was cut off came after that. */
  #contentOf(
    { name, image, format }: Listed,
    was: Device,
    { effects, choice }: { readonly effects: readonly Effect[]; readonly choice: string | undefined },
  ): Content {
    const atCut = this.#atCut.devices.get(name);
    const slot = slotOf(name);
    const isLeftBehind = this.#leftBehind.has(slot) && was.image !== image;
    const unchanged = ((isLeftBehind && atCut) || was).content;
    if (!atCut || !effects.some(({ device }) => slotOf(device) === slot)) return unchanged;
    const { content } = applyEffects(effects, name, { content: atCut.content, kept: this.keptBy(atCut) });
    const writes = isLeftBehind ? [] : (this.#writtenSince.get(slot) ?? []);
    const changed = writes.reduce((result, write) => write(result), content);
    // A way out that was chosen may have left the image as it was.
    return choice !== undefined && isSame(readContent(image, format), unchanged) ? unchanged : changed;
  }

  /** What the snapshots of its chain hold. */
  keptBy({ chain }: Device): Map<string, Content> {
    return new Map(chain.flatMap(({ image }) => [...(this.world.kept.get(image) ?? [])]));
  }

  /** In which image they are is observed; which there are, and what they hold, is the model's to say. */
  #followSnapshots(effects: readonly Effect[], choice: string | undefined): void {
    const kept = new Map(this.world.kept);
    for (const [name, device] of this.world.devices) {
      const was = this.#atCut.devices.get(name);
      const slot = slotOf(name);
      if (!was || !effects.some(({ device: one, kind }) => slotOf(one) === slot && kind !== "back")) continue;
      const before = this.keptBy(was);
      const after = applyEffects(effects, name, { content: was.content, kept: before }).kept;
      const wanted = choice === undefined ? after : new Map([...before, ...after]);
      const found = new Set<string>();
      for (const layer of device.chain) {
        const there = listSnapshots(layer);
        kept.set(layer.image, new Map(there.map((label) => [label, wanted.get(label) ?? new Uint8Array(0)])));
        for (const label of there) found.add(label);
      }
      const lost = [...(choice === undefined ? after.keys() : [])].find((label) => !found.has(label));
      const odd = [...found].find((label) => !wanted.has(label));
      if (lost !== undefined || odd !== undefined) {
        throw new Fault(`${name}: the snapshot ${lost ?? odd} is ${lost === undefined ? "there" : "lost"}`);
      }
    }
    this.world = { ...this.world, kept };
  }

  /** Returns the command that was chosen, where imgtx named ways to end a trouble. */
  async recover(): Promise<string | undefined> {
    let chosen: string | undefined;
    for (let round = 0; round < 8; round += 1) {
      const ended = await this.run(["recover"], undefined);
      if (ended.status === 0) return chosen;
      const ways = [...ended.stderr.matchAll(/`imgtx ((?:txn|recover) [^`]*--(?:force|give-up)[^`]*)`/g)].map(
        ([, way]) => way ?? "",
      );
      const way = ways[this.random.below(Math.max(1, ways.length))];
      if (way === undefined) throw new Fault(`recover ended with ${sayEnd(ended)}`);
      chosen = way;
      this.count("ways out taken");
      const { stderr, stdout } = await this.run(way.split(" "), undefined);
      for (const [, name = ""] of `${stdout}${stderr}`.matchAll(/stays there, and is not on '(\w+)'/g)) {
        this.#leftBehind.add(slotOf(name));
      }
    }
    throw new Fault("recovery does not come to an end");
  }

  async look(asksQemu: boolean): Promise<void> {
    // What a step has listed at its end needs no second look, but now and then.
    const known = asksQemu || !this.#isListed ? undefined : this.#listing;
    const listing = known ?? (await this.list());
    this.#isListed = false;
    if (!this.open && listing.generation !== this.world.generation) {
      throw new Fault(`generation ${listing.generation} came after ${this.world.generation} by itself`);
    }
    this.world = worldFrom(
      listing,
      ({ name }) => this.world.devices.get(name)?.content ?? new Uint8Array(0),
      this.world,
    );
    assertContent(this.world, asksQemu);
    assertView(this.place, this.world);
    if (this.open) return;
    if (asksQemu || this.#sealedAt !== listing.generation) await this.#lookAtSealed();
    this.#sealedAt = listing.generation;
    if (!asksQemu) return;
    const files = findLeftovers(this.folders.filter((folder) => existsSync(folder)));
    const kept = files.length === 0 ? "" : this.readJournals();
    const lost = files.find((file) => !kept.includes(/\.imgtx-([a-z0-9]+)-/.exec(file)?.[1] ?? ""));
    if (lost !== undefined) throw new Fault(`${lost} is left, and no journal knows of it`);
  }

  async #lookAtSealed(): Promise<void> {
    const all = await listSealed(this.place);
    // What was given up may have been half way, and what it was to change counts as changed.
    const listed = this.figures["ways out taken"] ? all.filter(({ problems }) => problems.length === 0) : all;
    const sealed = assertSealed(this.world.sealed, listed, this.world.left);
    this.world = { ...this.world, listed, sealed };
  }

  /** Names of the journals: of copies that were cut off and are kept, and of what was given up, which leaves files. */
  readJournals(): string {
    const folders = ["journal", "given-up"].map((name) => join(this.place.cwd, ".imgtx", name));
    return folders.flatMap((folder) => (existsSync(folder) ? readdirSync(folder) : [])).join(" ");
  }

  ground(): Ground {
    return {
      cwd: this.place.cwd,
      random: this.random,
      world: withNames(
        this.world,
        (this.open?.moves ?? []).flatMap(({ effects = [] }) => effects),
      ),
      nextNumber: () => (this.number += 1),
      knowImage: (path: string, content: Content) => {
        this.world = { ...this.world, left: new Map(this.world.left).set(path, content) };
      },
    };
  }

  aCut(effect: Cut["effect"]): Cut {
    const calls = [
      ["fsync", 14],
      ["pwrite64", 24],
      ["rename", 4],
      ["renameat2", 3],
      ["unlink", 6],
      ["symlink", 4],
      ["ftruncate", 3],
      ["mkdir", 3],
      ["copy_file_range", 3],
      ["fallocate", 3],
    ] as const;
    const [call, most] = calls[this.random.below(calls.length)] ?? calls[0];
    const stays = effect === "error=ENOSPC" && this.random.below(2) === 0;
    return { call, number: 1 + this.random.below(most), effect, stays };
  }

  async run(
    argv: readonly string[],
    wanted: number | undefined,
    choice: { readonly cut?: Cut | undefined; readonly env?: Readonly<Record<string, string>> } = {},
  ): Promise<Ended> {
    this.#isListed = false;
    const ended = await runImgtx(this.place, argv, {
      cut: choice.cut,
      ...(choice.env && { env: choice.env }),
    });
    const cut = choice.cut ? ` [${choice.cut.effect} at ${choice.cut.call} ${choice.cut.number}]` : "";
    this.tell(`imgtx ${argv.join(" ")}${cut}: ${sayEnd(ended)}`);
    this.count("commands");
    const [verb = "", action = ""] = argv[0] === "--txn" ? argv.slice(2) : argv;
    if (ended.status === 0) this.count(`${verb === "img" ? `img ${action}` : verb} done`);
    // The statuses of img are qemu-img's.
    const isFailed = argv[0] === "img" ? /a bug in imgtx/.test(ended.stderr) : ended.status === 1;
    if (isFailed || (wanted !== undefined && ended.status !== wanted)) {
      throw new Fault(`imgtx ${argv.join(" ")}${cut} ended with ${sayEnd(ended)}`);
    }
    return ended;
  }

  tell(line: string): void {
    this.trail.push(line);
    this.say?.(line);
  }

  count(what: string): void {
    this.figures[what] = (this.figures[what] ?? 0) + 1;
  }

  /** Asks imgtx. */
  async list(): Promise<Listing> {
    this.#listing = await listDevices(this.place);
    this.#isListed = true;
    return this.#listing;
  }

  /** By what was listed last, which each step ends with. */
  findLong(): string | undefined {
    return this.#listing?.devices.find(({ chain, frozen }) => chain.length > LONGEST_CHAIN && !frozen)?.name;
  }
}

/** Whether the model has the device on the image of this real path. A merge that was killed may have taken its own away. */
function isOn({ image }: Device, path: string): boolean {
  return existsSync(image) && realpathSync(image) === path;
}
