// One sequence of the differential fuzzer: an image comes to be, is written to, snapshotted, converted and
// overlaid by one tool or the other, and at the end both tools say what it is.
//
// Invariants
// - The seed alone decides what is done.
// - A model keeps what the guest must read, but for what a discard left open.

import { copyFileSync, existsSync } from "node:fs";
import { type Random, seededRandom } from "../helpers/random.ts";
import { GuestModel } from "./differential-model.ts";
import { chance, chooseLayout, type ChosenLayout, pick } from "./differential-options.ts";
import type { GuestRequest, Tool, Tools } from "./differential-tools.ts";
import type { ImageFormat } from "../../src/format/index.ts";

/** What the sequence works on now. */
export interface Current {
  readonly name: string;
  readonly format: ImageFormat;
  /** Undefined for raw. */
  readonly layout: ChosenLayout | undefined;
}

const STEPS_MIN = 2;
const STEPS_SPAN = 6;
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
  #bitmaps = 0;
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
    if (dice < 50) await this.#request();
    else if (dice < 62) await this.#convert();
    else if (dice < 76) await this.#overlay();
    else if (format === "raw") await this.#request();
    else if (dice < 92) await this.#snapshot();
    else if (dice < 96) await this.#addBitmap();
    else await this.#resize();
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
    this.#bitmaps = 0;
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
    if (by === "imgtx" && this.#bitmaps > 0) this.mayLeak = true;
    for (const request of requests) this.#model.apply(request);
    if (twin === undefined) return;
    await this.#tools.requestByQemu(twin, format, requests);
    await this.#tools.img("qemu", ["compare", "-f", format, "-F", format, name, twin]);
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

  async #snapshot(): Promise<void> {
    const { name, layout } = this.current;
    if (layout === undefined || layout.hasDataFile) return;
    const dice = this.random.below(10);
    const old = this.#snapshots.at(-1);
    // The width of a refcount limits how many snapshots can share a cluster.
    const needed = this.#isCompressed ? 16 : 4;
    const room = layout.refcountBits >= needed ? 5 : this.#isCompressed ? 0 : 2 ** layout.refcountBits - 2;
    if (old === undefined || (dice < 6 && this.#snapshots.length < room)) {
      if (this.#snapshots.length >= room) return;
      this.#names += 1;
      const label = `s${this.#names}`;
      await this.#tools.img("qemu", ["snapshot", "-c", label, name]);
      this.#snapshots.push({ name: label, model: this.#model.copy() });
    } else if (dice < 8) {
      await this.#tools.img("qemu", ["snapshot", "-d", old.name, name]);
      this.#snapshots.pop();
    } else if (old.model.sizeBytes === this.#model.sizeBytes && this.#bitmaps === 0) {
      await this.#tools.img("qemu", ["snapshot", "-a", old.name, name]);
      this.#model = old.model.copy();
    }
  }

  async #addBitmap(): Promise<void> {
    const { name, layout } = this.current;
    if (layout?.version !== 3) return;
    this.#names += 1;
    const granularity = 512 * 2 ** this.random.below(8);
    await this.#tools.img("qemu", ["bitmap", "--add", "-g", String(granularity), name, `b${this.#names}`]);
    this.#bitmaps += 1;
  }

  async #resize(): Promise<void> {
    const { name, layout } = this.current;
    // Version 2 has no zeros to put in front of a longer backing image: QEMU refuses.
    const isGrown = layout?.version === 3 && this.#snapshots.length === 0 && !layout.hasDataFile;
    if (!isGrown || existsSync(`${this.#tools.folder}/${name}.data`)) return;
    const sizeBytes = this.#model.sizeBytes + 512 * this.random.below(2048);
    await this.#tools.img("qemu", ["resize", "-q", "-f", "qcow2", name, String(sizeBytes)]);
    this.#model = this.#model.resized(sizeBytes);
    this.#current = { ...this.current, layout: { ...layout, virtualSizeBytes: sizeBytes } };
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
