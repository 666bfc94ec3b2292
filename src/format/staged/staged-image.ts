// One image as its redo log will leave it: reads go to the log for what it has, and to the image's own file for the
// rest; whatever changes it is appended to the log.
//
// Invariants
// - The image's file is only read, and only as far as it went when the log was begun; a block device as far as it goes.
// - A page in the log is whole: what a write does not cover of it is copied along.
// - What a page replaces is taken from the image when the page is first written, and goes from record to record of
//   that page. A page that is as the image has it is not logged at all.
// - Where a sector that was written by half could be taken for a stranger's, the log has what the page replaces, once:
//   everywhere without a fence, and at the page whose first sector takes a fence down.
// - Past the present size everything counts as zeros. What the image or the log has there from a time when the
//   size was larger is replaced by zeros before the size grows again, so that a size frame by itself tells all.
// - Changes follow each other; reads may overlap with them.
// - No change makes a block device larger or smaller: what it has no room for is refused when it is logged. Where somebody
//   else has made it larger, what it has there is read from it, and the log says so before it has a page of that.

import { ImgtxError } from "../../errors/index.ts";
import { type ByteRange, type FileStat, type StorageFile, Turnstile } from "../../storage/index.ts";
import { earliest, offsetBy, SECTOR_BYTES } from "../../units/index.ts";
import { FRAME_DIGESTS_MAX, FRAME_PAGES_MAX, type PageRecord } from "./frames.ts";
import type { RedoLog } from "./redo-log.ts";
import {
  compareSectors,
  compareWithDigests,
  digestPage,
  PAGE_BYTES,
  pageFrom,
  type PageIndex,
  pageOf,
  startOfPage,
} from "./sectors.ts";

/** The image's own file, open for reading. */
export type BaseFile = Pick<StorageFile, "read" | "seekData" | "seekHole">;

export class StagedImage {
  readonly log: RedoLog;
  readonly queue = new Turnstile();
  /** Of a block device, where it is larger than the log knows. */
  readonly #deviceBytes: number;
  /** Of the batch that is being logged, of which there is one at a time: new ones would keep the collector busy. */
  readonly #after = new Uint8Array(FRAME_PAGES_MAX * PAGE_BYTES);
  readonly #before = new Uint8Array(FRAME_PAGES_MAX * PAGE_BYTES);

  /** stat: of the image as it is. */
  constructor(log: RedoLog, { sizeBytes }: Pick<FileStat, "sizeBytes">) {
    this.log = log;
    // What the log has of a page that the device ended in says nothing of the rest.
    const isPageWhole =
      log.sizeBytes % PAGE_BYTES === 0 || log.map.find(pageOf(log.sizeBytes)).kind === "base";
    this.#deviceBytes = log.isOfDevice && isPageWhole ? sizeBytes : 0;
  }

  get sizeBytes(): number {
    return Math.max(this.log.sizeBytes, this.#deviceBytes);
  }

  get #peakBytes(): number {
    return Math.max(this.log.peakBytes, this.#deviceBytes);
  }

  /** What of it is read from its own file. */
  get #baseSizeBytes(): number {
    return this.log.isOfDevice ? this.sizeBytes : this.log.baseSizeBytes;
  }

  /** StorageFile.read */
  async read(base: BaseFile, target: Uint8Array, offset: number): Promise<number> {
    const count = Math.max(0, Math.min(target.length, this.sizeBytes - offset));
    const wanted = target.subarray(0, count);
    for (let at = offset; at < offset + count; ) {
      const stop = await this.#readPiece(base, wanted.subarray(at - offset), at);
      at = stop;
    }
    return count;
  }

  /** StorageFile.write */
  async write(base: BaseFile, source: Uint8Array, offset: number): Promise<void> {
    const end = offset + source.length;
    if (source.length === 0) return;
    await this.#change(async () => {
      // The size first: pages after it, left by a write that fails halfway, would show when it grows.
      if (end > this.sizeBytes) await this.#resize(base, end);
      await this.#writeInBatches(base, source, offset, false);
    });
  }

  /** StorageFile.truncate */
  async truncate(base: BaseFile, sizeBytes: number): Promise<void> {
    await this.queue.run(() => this.#resize(base, sizeBytes));
  }

  /** As a file grows by allocation: never smaller. */
  async growTo(base: BaseFile, sizeBytes: number): Promise<void> {
    await this.queue.run(async () => {
      if (sizeBytes > this.sizeBytes) await this.#resize(base, sizeBytes);
    });
  }

  /** StorageFile.punchHole: it never makes a file longer. */
  async punchHole(base: BaseFile, { start, lengthBytes }: ByteRange): Promise<void> {
    await this.#change(async () => {
      const end = Math.min(start + lengthBytes, this.sizeBytes);
      if (start < end) await this.#zero(base, start, end);
    });
  }

  /** Has the sectors of a range written when the log is applied, be they changed or not. */
  async include(base: BaseFile, { start, lengthBytes }: ByteRange): Promise<void> {
    await this.#change(async () => {
      const bytes = new Uint8Array(lengthBytes);
      const count = await this.read(base, bytes, start);
      await this.#writeInBatches(base, bytes.subarray(0, count), start, true);
    });
  }

  async #change(work: () => Promise<void>): Promise<void> {
    await this.queue.run(async () => {
      if (this.log.sizeBytes < this.#deviceBytes) await this.log.appendSize(this.#deviceBytes);
      await work();
    });
  }

  /** StorageFile.seekData */
  async seekData(base: BaseFile, offset: number): Promise<number | undefined> {
    const found = await this.#findData(base, offset, this.sizeBytes);
    return found < this.sizeBytes ? found : undefined;
  }

  /** StorageFile.seekHole */
  async seekHole(base: BaseFile, offset: number): Promise<number> {
    return Math.max(offset, await this.#findHole(base, offset, this.sizeBytes));
  }

  /** The first hole at or after offset, whatever the size; `end` where there is none before. */
  async #findHole(base: BaseFile, offset: number, end: number): Promise<number> {
    for (let at = offset; at < end; ) {
      const page = pageOf(at);
      const place = this.log.map.find(page);
      if (place.kind === "hole") return at;
      if (place.kind === "page") at = startOfPage(offsetBy(page, 1));
      else {
        const next = this.#nextLoggedByte(page, end);
        const hole = at < this.#baseSizeBytes ? await base.seekHole(at) : at;
        if (hole < next) return Math.min(hole, end);
        at = next;
      }
    }
    return end;
  }

  /** The first data at or after offset, whatever the size; `end` where there is none before. */
  async #findData(base: BaseFile, offset: number, end: number): Promise<number> {
    for (let at = offset; at < end; ) {
      const page = pageOf(at);
      const place = this.log.map.find(page);
      if (place.kind === "page") return at;
      if (place.kind === "hole") at = startOfPage(place.end);
      else {
        const next = this.#nextLoggedByte(page, end);
        const data = at < this.#baseSizeBytes ? await base.seekData(at) : undefined;
        if (data !== undefined && data < Math.min(next, this.#baseSizeBytes)) return data;
        at = next;
      }
    }
    return end;
  }

  #nextLoggedByte(page: PageIndex, endBytes: number): number {
    return startOfPage(this.log.map.nextLogged(page, pageFrom(endBytes)));
  }

  /** From the start of target, as far as it comes from one place. Returns where that ends in the image. */
  async #readPiece(base: BaseFile, target: Uint8Array, at: number): Promise<number> {
    const end = at + target.length;
    const page = pageOf(at);
    const place = this.log.map.find(page);
    if (place.kind === "page") {
      const stop = Math.min(end, startOfPage(offsetBy(page, 1)));
      await this.log.readContent(place.position, target.subarray(0, stop - at), at - startOfPage(page));
      return stop;
    }
    if (place.kind === "hole") {
      const stop = Math.min(end, startOfPage(place.end));
      target.fill(0, 0, stop - at);
      return stop;
    }
    const stop = Math.min(end, this.#nextLoggedByte(page, end));
    await this.#readBase(base, target.subarray(0, stop - at), at);
    return stop;
  }

  async #readBase(base: BaseFile, target: Uint8Array, at: number): Promise<void> {
    const there = Math.max(0, Math.min(target.length, this.#baseSizeBytes - at));
    const count = there === 0 ? 0 : await base.read(target.subarray(0, there), at);
    target.fill(0, count);
  }

  async #resize(base: BaseFile, sizeBytes: number): Promise<void> {
    if (this.log.isOfDevice && sizeBytes !== this.sizeBytes) throw this.#cantBeResized(sizeBytes);
    if (sizeBytes > this.sizeBytes) await this.#clearStale(base, sizeBytes);
    if (sizeBytes !== this.sizeBytes) await this.log.appendSize(sizeBytes);
  }

  #cantBeResized(sizeBytes: number): ImgtxError {
    const { image } = this.log.identity;
    const presentBytes = this.sizeBytes;
    if (sizeBytes < presentBytes)
      return new ImgtxError("E_INTERNAL", "a block device has the size that it has", { image });
    return new ImgtxError(
      "E_NO_SPACE",
      `the device ends at ${presentBytes}, and the change needs ${sizeBytes} bytes of it`,
      {
        image,
        offset: presentBytes,
        wantsBytes: sizeBytes,
        hint: "make the volume larger (`lvextend` for LVM), then run the command again",
      },
    );
  }

  /** Before the file grows to a size: what it had past its present end must not show again. */
  async #clearStale(base: BaseFile, sizeBytes: number): Promise<void> {
    const end = Math.min(sizeBytes, this.#peakBytes);
    if (this.sizeBytes < end) await this.#zero(base, this.sizeBytes, end);
  }

  /** Whole pages become a hole, the rest is written. Past the size everything is zeros in any case. */
  async #zero(base: BaseFile, start: number, end: number): Promise<void> {
    const first = pageFrom(start);
    const last = end >= this.sizeBytes ? pageFrom(end) : pageOf(end);
    if (first >= last) {
      await this.#writeInBatches(base, new Uint8Array(end - start), start, false);
      return;
    }
    const [holeAt, holeEnd] = [startOfPage(first), startOfPage(last)];
    if (start < holeAt) await this.#writeInBatches(base, new Uint8Array(holeAt - start), start, false);
    await this.#punchPages(base, first, last);
    if (holeEnd < end) await this.#writeInBatches(base, new Uint8Array(end - holeEnd), holeEnd, false);
  }

  /** Only what is not zeros already: holes of an image stay out of its log. */
  async #punchPages(base: BaseFile, first: PageIndex, end: PageIndex): Promise<void> {
    const stop = earliest(end, pageFrom(this.#peakBytes));
    for (let page = first; page < stop; ) {
      const data = await this.#findData(base, startOfPage(page), startOfPage(stop));
      const from = pageOf(data);
      if (from >= stop) return;
      if (!this.log.header.checksHoles) {
        await this.log.appendHole(from, stop - from, new Uint8Array(0));
        return;
      }
      const hole = await this.#findHole(base, data, startOfPage(stop));
      page = earliest(offsetBy(from, FRAME_DIGESTS_MAX), pageFrom(hole));
      await this.#punchChecked(base, from, page);
    }
  }

  /** Pages without a hole among them, with what they replace. */
  async #punchChecked(base: BaseFile, first: PageIndex, end: PageIndex): Promise<void> {
    const digests: Uint8Array[] = [];
    for (let page = first; page < end; page = offsetBy(page, 1)) {
      const place = this.log.map.find(page);
      if (place.kind === "page") digests.push((await this.log.readRecordHead(place.position)).digests);
      else {
        const bytes = this.#before.subarray(0, PAGE_BYTES);
        await this.#readBase(base, bytes, startOfPage(page));
        digests.push(digestPage(bytes));
      }
    }
    await this.log.appendHole(first, end - first, Buffer.concat(digests));
  }

  async #writeInBatches(
    base: BaseFile,
    source: Uint8Array,
    offset: number,
    isForced: boolean,
  ): Promise<void> {
    const end = offset + source.length;
    for (let at = offset; at < end; ) {
      const stop = Math.min(end, startOfPage(offsetBy(pageOf(at), FRAME_PAGES_MAX)));
      await this.#writeBatch(base, source.subarray(at - offset, stop - offset), at, isForced);
      at = stop;
    }
  }

  async #writeBatch(base: BaseFile, source: Uint8Array, offset: number, isForced: boolean): Promise<void> {
    const end = offset + source.length;
    const first = pageOf(offset);
    const pages = pageFrom(end) - first;
    const start = startOfPage(first);
    const after = this.#after.subarray(0, pages * PAGE_BYTES);
    after.fill(0, 0, PAGE_BYTES).fill(0, after.length - PAGE_BYTES);
    if (offset > start) await this.read(base, after.subarray(0, PAGE_BYTES), start);
    if (end < start + after.length) {
      const tail = after.length - PAGE_BYTES;
      await this.read(base, after.subarray(tail), start + tail);
    }
    after.set(source, offset - start);
    const before = new Before(
      async (target) => await this.#readBase(base, target, start),
      this.#before.subarray(0, after.length),
    );
    const records: PageRecord[] = [];
    for (let index = 0; index < pages; index += 1) {
      const at = index * PAGE_BYTES;
      const content = after.subarray(at, at + PAGE_BYTES);
      const forced = isForced ? sectorsWithin(offset - start - at, end - start - at) : 0;
      const record = await this.#makeRecord(offsetBy(first, index), content, forced, () =>
        before.pages(index, 1),
      );
      if (record !== undefined) records.push(record);
    }
    if (records.length === 0) return;
    await this.#keepReplaced(records, async (page, count) => await before.pages(page - first, count));
    await this.log.appendPages(records);
  }

  async #keepReplaced(
    records: readonly PageRecord[],
    readBefore: (page: PageIndex, count: number) => Promise<Uint8Array>,
  ): Promise<void> {
    let run: { readonly first: PageIndex; count: number } | undefined;
    const append = async () =>
      run && (await this.log.appendReplaced(run.first, await readBefore(run.first, run.count)));
    for (const { page } of records) {
      if (!this.#lacksReplaced(page)) continue;
      if (run?.first !== page - (run?.count ?? 0)) {
        await append();
        run = { first: page, count: 0 };
      }
      run.count += 1;
    }
    await append();
  }

  #lacksReplaced(page: PageIndex): boolean {
    const { keepsReplaced, checksHoles } = this.log.header;
    const mayTear = checksHoles || page === 0;
    const wasThere = startOfPage(page) < this.#baseSizeBytes;
    return keepsReplaced && mayTear && wasThere && this.log.map.findReplaced(page) === undefined;
  }

  /** Undefined where the page is as the image has it, and was never anything else. */
  async #makeRecord(
    page: PageIndex,
    content: Uint8Array,
    forced: number,
    readBefore: () => Promise<Uint8Array>,
  ): Promise<PageRecord | undefined> {
    const place = this.log.map.find(page);
    if (place.kind === "page") {
      const old = await this.log.readRecordHead(place.position);
      const all = old.forced | forced;
      const changed = compareWithDigests(old.digests, content) | all;
      return { page, changed, forced: all, digests: old.digests, content };
    }
    if (place.kind === "hole" && place.digestsAt !== 0) {
      const digests = await this.log.readDigests(place.digestsAt, 1);
      return { page, changed: compareWithDigests(digests, content) | forced, forced, digests, content };
    }
    const before = await readBefore();
    const changed = compareSectors(before, content) | forced;
    if (place.kind === "base" && changed === 0) return undefined;
    return { page, changed, forced, digests: digestPage(before), content };
  }
}

/** The pages of a batch as the image has them, read when the first of them is asked for. */
class Before {
  readonly #read: (target: Uint8Array) => Promise<void>;
  readonly #bytes: Uint8Array;
  #isRead = false;

  /** bytes: to read them into. */
  constructor(read: (target: Uint8Array) => Promise<void>, bytes: Uint8Array) {
    this.#read = read;
    this.#bytes = bytes;
  }

  async pages(index: number, count: number): Promise<Uint8Array> {
    if (!this.#isRead) await this.#read(this.#bytes);
    this.#isRead = true;
    return this.#bytes.subarray(index * PAGE_BYTES, (index + count) * PAGE_BYTES);
  }
}

/** The sectors of a page that bytes start to end of it touch, a bit for each. */
function sectorsWithin(start: number, end: number): number {
  const first = Math.max(0, Math.floor(start / SECTOR_BYTES));
  const last = Math.min(PAGE_BYTES / SECTOR_BYTES, Math.ceil(end / SECTOR_BYTES));
  return last <= first ? 0 : (2 ** last - 1) & ~(2 ** first - 1);
}
