// One sequence of the differential fuzzer: an image comes to be, is written to, snapshotted, converted and
// overlaid by one tool or the other, and at the end both tools say what it is.
//
// Invariants
// - The seed alone decides what is done.
// - A model keeps what the guest must read, but for what a discard left open.

import { copyFileSync, rmSync } from "node:fs";
import { type Random, seededRandom } from "../helpers/random.ts";
import { type Change, chooseChange } from "./differential-changes.ts";
import { GuestModel } from "./differential-model.ts";
import { chance, chooseLayout, type ChosenLayout, pick } from "./differential-options.ts";
import type { GuestRequest, Tool, Tools } from "./differential-tools.ts";
import { changeBoth } from "./differential-twins.ts";
import type { ImageFormat } from "../../src/format/index.ts";

/** What the sequence works on now. */
export interface Current {
  readonly name: string;
  readonly format: ImageFormat;
  /** Undefined for raw. */
  readonly layout: ChosenLayout | undefined;
}

const STEPS_MIN = 3;
const STEPS_SPAN = 9;
const REQUESTS_MAX = 8;
const TWIN_PERCENT = 30;

export class Sequence {
  readonly random: Random;
  readonly #tools: Tools;
  readonly #snapshots: { readonly name: string; readonly model: GuestModel }[] = [];
  #current: Current | undefined;
  /** Clusters that hold something, where QEMU writes nothing compressed; undefined for all of them. */
  #touched: Set<number> | undefined;
  /** Compressed clusters share the clusters of the file, so that narrow refcounts are full soon. */
  #isCompressed = false;
  /** Below what is worked on, from the top down. */
  #below: Current[] = [];
  #hasBitmaps = false;
  /** imgtx takes the bitmaps of an image that it writes to for lost; what they took leaks. */
  mayLeak = false;
  #model = new GuestModel(0);
  #names = 0;

  constructor(tools: Tools, seed: number) {
    this.random = seededRandom(seed);
    this.#tools = tools;
  }

  get model(): GuestModel {
    return this.#model;
  }

  get current(): Current {
    if (this.#current === undefined) throw new Error("nothing was created yet");
    return this.#current;
  }

  async run(): Promise<void> {
    await this.#create(chance(this.random, 10) ? "raw" : "qcow2");
    const steps = STEPS_MIN + this.random.below(STEPS_SPAN);
    for (let step = 0; step < steps; step += 1) await this.#step();
  }

  async #step(): Promise<void> {
    const { format } = this.current;
    const dice = this.random.below(100);
    if (dice < 40) await this.#request();
    else if (dice < 50) await this.#convert();
    else if (dice < 65) await this.#overlay();
    else if (format === "raw") await this.#request();
    else await this.#change();
  }

  #tool(): Tool {
    return pick(this.random, ["qemu", "imgtx"]);
  }

  #newName(format: ImageFormat): string {
    this.#names += 1;
    return `${this.#names}.${format}`;
  }

  async #create(format: ImageFormat): Promise<void> {
    const name = this.#newName(format);
    const by = this.#tool();
    if (format === "raw") {
      const sizeBytes = 512 * (1 + this.random.below(4096));
      await this.#tools.img(by, ["create", "-q", "-f", "raw", name, String(sizeBytes)]);
      this.#model = new GuestModel(sizeBytes);
      this.#current = { name, format, layout: undefined };
    } else {
      const layout = chooseLayout(this.random, { hasBacking: false, dataFileName: `${name}.data` });
      const words = ["-o", layout.options.join(","), name, String(layout.virtualSizeBytes)];
      await this.#tools.img(by, ["create", "-q", "-f", "qcow2", ...words]);
      this.#model = new GuestModel(layout.virtualSizeBytes);
      this.#current = { name, format, layout };
    }
    this.#forget();
  }

  /** Of a new image nothing is known from before. */
  #forget(isEmpty = true): void {
    this.#snapshots.length = 0;
    const options = this.current.layout?.options ?? [];
    const isPreallocated = options.some((each) => each.startsWith("preallocation"));
    this.#touched = isEmpty && !isPreallocated ? new Set() : undefined;
    this.#isCompressed = false;
    this.#hasBitmaps = false;
    this.mayLeak = false;
  }

  /** An overlay on top becomes what is worked on. */
  async #overlay(): Promise<void> {
    const below = this.current;
    const name = this.#newName("qcow2");
    const layout = chooseLayout(this.random, { hasBacking: true, dataFileName: undefined });
    const ownSize = chance(this.random, 30) ? layout.virtualSizeBytes : undefined;
    const words = ["create", "-q", "-f", "qcow2", "-b", below.name, "-F", below.format];
    const size = ownSize === undefined ? [] : [String(ownSize)];
    await this.#tools.img(this.#tool(), [...words, "-o", layout.options.join(","), name, ...size]);
    const virtualSizeBytes = ownSize ?? this.#model.sizeBytes;
    this.#model = this.#model.resized(virtualSizeBytes);
    this.#current = { name, format: "qcow2", layout: { ...layout, virtualSizeBytes } };
    this.#below = [below, ...this.#below];
    this.#forget();
  }

  async #convert(): Promise<void> {
    const source = this.current;
    const format = chance(this.random, 15) ? "raw" : "qcow2";
    const name = this.#newName(format);
    const words = ["convert", "-f", source.format, "-O", format];
    let layout: ChosenLayout | undefined;
    if (format === "qcow2") {
      layout = chooseLayout(this.random, { hasBacking: false, dataFileName: `${name}.data` });
      const mayCompress = !layout.hasDataFile && !layout.options.some((each) => each.startsWith("prealloc"));
      if (mayCompress && chance(this.random, 40)) words.push("-c");
      words.push("-o", layout.options.join(","));
      layout = { ...layout, virtualSizeBytes: this.#model.sizeBytes };
    }
    if (chance(this.random, 20)) words.push("-S", pick(this.random, ["0", "4k", "64k"]));
    if (chance(this.random, 20)) words.push("-m", pick(this.random, ["1", "4"]), "-W");
    const old = this.#snapshots.at(-1);
    const isOld = old !== undefined && chance(this.random, 40);
    if (isOld) words.push("-l", old.name);
    await this.#tools.img(this.#tool(), [...words, source.name, name]);
    // A snapshot is read at the size that the disk has now.
    if (isOld) this.#model = old.model.resized(this.#model.sizeBytes);
    this.#current = { name, format, layout };
    this.#below = [];
    this.#forget(false);
    this.#isCompressed = words.includes("-c");
  }

  async #request(): Promise<void> {
    const count = 1 + this.random.below(REQUESTS_MAX);
    const made = Array.from({ length: count }, () => this.#makeRequest());
    const { name, format } = this.current;
    const by = this.#tool();
    const isShared = by === "imgtx" && chance(this.random, TWIN_PERCENT);
    const requests = by === "qemu" || isShared ? compressedFirst(made) : made;
    const twin = isShared ? this.#makeTwin() : undefined;
    if (by === "qemu") await this.#tools.requestByQemu(name, format, requests);
    else await this.#tools.requestByImgtx(name, format, requests);
    if (by === "imgtx" && this.#hasBitmaps) this.mayLeak = true;
    for (const request of requests) this.#model.apply(request);
    if (twin === undefined) return;
    await this.#tools.requestByQemu(twin, format, requests);
    await this.#tools.img("qemu", ["compare", "-f", format, "-F", format, name, twin]);
    // It stands on what the image stands on, which could not be changed any more.
    rmSync(`${this.#tools.folder}/${twin}`);
  }

  /** A copy for the other tool to work on; none where the data is in a second file. */
  #makeTwin(): string | undefined {
    const { name, layout } = this.current;
    if (layout?.hasDataFile === true) return undefined;
    copyFileSync(`${this.#tools.folder}/${name}`, `${this.#tools.folder}/twin`);
    return "twin";
  }

  #makeRequest(): GuestRequest {
    const { layout } = this.current;
    const { sizeBytes } = this.#model;
    const clusterBytes = layout?.clusterBytes ?? 4096;
    const dice = this.random.below(100);
    const byte = 1 + this.random.below(255);
    const mayCompress = dice >= 80 && layout !== undefined && !layout.hasDataFile;
    if (mayCompress && sizeBytes >= clusterBytes) {
      const cluster = this.random.below(Math.floor(sizeBytes / clusterBytes));
      if (this.#touch(cluster * clusterBytes, clusterBytes, clusterBytes)) {
        this.#isCompressed = true;
        return { kind: "compressed", start: cluster * clusterBytes, lengthBytes: clusterBytes, byte };
      }
    }
    const kind = dice < 55 ? "write" : dice < 68 ? "zero" : dice < 80 ? "unmap" : "discard";
    // Places where something changes: a sector, a subcluster, a cluster.
    const unit = pick(this.random, [
      1,
      512,
      512,
      Math.max(512, clusterBytes / 32),
      clusterBytes,
      clusterBytes,
    ]);
    const grain = kind === "discard" ? Math.max(512, unit) : unit;
    const start = Math.floor(this.random.below(sizeBytes) / grain) * grain;
    const units = 1 + this.random.below(pick(this.random, [1, 4, 40, 400]));
    const lengthBytes = Math.min(units * grain, sizeBytes - start, 2 * 1024 * 1024);
    this.#touch(start, lengthBytes, clusterBytes);
    return { kind, start, lengthBytes, byte };
  }

  /** Whether all of it was untouched. */
  #touch(start: number, lengthBytes: number, clusterBytes: number): boolean {
    if (this.#touched === undefined) return false;
    let isNew = true;
    for (let at = Math.floor(start / clusterBytes); at * clusterBytes < start + lengthBytes; at += 1) {
      if (this.#touched.has(at)) isNew = false;
      this.#touched.add(at);
    }
    return isNew;
  }

  /** A change in place, by both tools. */
  async #change(): Promise<void> {
    const { name, layout } = this.current;
    if (layout === undefined) return;
    // The width of a refcount limits how many snapshots can share a cluster.
    const needed = this.#isCompressed ? 16 : 4;
    const room = layout.refcountBits >= needed ? 5 : this.#isCompressed ? 0 : 2 ** layout.refcountBits - 2;
    const change = chooseChange({
      random: this.random,
      name,
      layout,
      room,
      sizeBytes: this.#model.sizeBytes,
      below: this.#below,
      snapshots: this.#snapshots.map((each) => each.name),
      newLabel: (letter) => `${letter}${(this.#names += 1)}`,
    });
    if (change && (await changeBoth(this.#tools, change, this.random))) this.#follow(change, layout);
  }

  #follow(change: Change, layout: ChosenLayout): void {
    const { snapshot } = change;
    if (change.words[0] === "bitmap") this.#hasBitmaps = true;
    if (change.sizeBytes !== undefined) this.#model = this.#model.resized(change.sizeBytes);
    if (change.depth !== undefined) {
      this.#below = this.#below.slice(this.#below.length - change.depth);
      // What was below may lie in the image now.
      this.#touched = undefined;
    }
    const index = this.#snapshots.findIndex((each) => each.name === snapshot?.name);
    if (snapshot?.kind === "keep") this.#snapshots.push({ name: snapshot.name, model: this.#model.copy() });
    if (snapshot?.kind === "drop") this.#snapshots.splice(index, 1);
    if (snapshot?.kind === "apply") this.#model = this.#snapshots[index]?.model.copy() ?? this.#model;
    const virtualSizeBytes = this.#model.sizeBytes;
    this.#current = { ...this.current, layout: { ...layout, ...change.layout, virtualSizeBytes } };
  }
}

/**
 * QEMU 7.2 goes on packing compressed clusters into one that a zero or a discard has freed meanwhile, and that
 * data was put into (`qemu-img check` then finds OFLAG_COPIED with refcount 2): not in one process, therefore.
 */
function compressedFirst(requests: readonly GuestRequest[]): GuestRequest[] {
  const isCompressed = ({ kind }: GuestRequest): boolean => kind === "compressed";
  return [...requests.filter(isCompressed), ...requests.filter((request) => !isCompressed(request))];
}
