// The bytes of a redo log: a header, then frames, each chained to all before it by its SHA-256.
//
// Invariants
// - Pure. What decode accepts, encode gives back byte for byte; a frame that decode accepts is of bounded length.
// - Numbers are big-endian. Where a frame begins is told by the one before it, so that none is found by searching.
//
//     header  0 magic (8) · 8 version (4) · 12 length of the identity (4) · 16 page size (4) · 20 flags (4)
//             24 size of the image (8) · 32 SHA-256 of all the rest of the header (32) · 64 identity, as JSON
//     frame   0 kind (4) · 4 count (4) · 8 place (8) · 16 length (8) · 24 zeros (8)
//             32 SHA-256 of the digest before, bytes 0 to 31 and the payload (32) · 64 payload
//     record  0 page (8) · 8 changed sectors (1) · 9 sectors to be written anyway (1) · 10 zeros (6)
//             16 digests of the sectors that it replaces (8 × 16) · 144 the page (4096)
//
// kind 1, pages: `count` records. kind 2, a hole: `length` pages from page `place` on, and `count` pages of digests
// of what it replaces, all of them or none. kind 3, a size: `place` bytes. kind 4, what the image has: `count` pages
// from page `place` on. Version 1 has no frames of kind 4.

import { createHash } from "node:crypto";
import { ImgtxError } from "../../errors/index.ts";
import type { ReusedBytes } from "../../storage/index.ts";
import { PAGE_BYTES, PAGE_DIGEST_BYTES, type PageIndex } from "./sectors.ts";

/** Of which file the log holds changes. Plain data: what its owner needs to know it again. */
export interface RedoIdentity {
  /** Of the transaction. */
  readonly transaction: string;
  /** Absolute path, as it was. */
  readonly image: string;
  readonly fileSystemId: string;
  readonly inode: string;
  readonly bornNs: string;
}

export interface LogHeader {
  readonly identity: RedoIdentity;
  /** Of the image before any change. */
  readonly baseSizeBytes: number;
  /** Whether holes have the digests of what they replace. */
  readonly checksHoles: boolean;
  /** Whether it has what pages replace, where that tells a torn sector: from version 2 on. */
  readonly keepsReplaced: boolean;
}

/** A page with what it replaces. */
export interface PageRecord {
  readonly page: PageIndex;
  readonly changed: number;
  /** Sectors that are to be written though they may be as they were. */
  readonly forced: number;
  readonly digests: Uint8Array;
  readonly content: Uint8Array;
}

export type FrameHead =
  | { readonly kind: "pages"; readonly count: number }
  | { readonly kind: "hole"; readonly first: PageIndex; readonly pages: number; readonly digests: number }
  | { readonly kind: "size"; readonly sizeBytes: number }
  | { readonly kind: "replaced"; readonly first: PageIndex; readonly count: number };

export const HEADER_FIXED_BYTES = 64;
const IDENTITY_BYTES_MAX = 64 * 1024;
export const FRAME_HEAD_BYTES = 64;
export const RECORD_BYTES = 16 + PAGE_DIGEST_BYTES + PAGE_BYTES;
const RECORD_DIGESTS_AT = 16;
export const RECORD_CONTENT_AT = RECORD_DIGESTS_AT + PAGE_DIGEST_BYTES;

/** Pages in one frame, so that each can be checked in little memory. */
export const FRAME_PAGES_MAX = 64;
export const FRAME_DIGESTS_MAX = 256;

const MAGIC = Buffer.from("imgtxred");
const VERSION = 2;
/** The last one without what pages replace. */
const DIGESTS_ONLY = 1;
const FLAG_CHECKS_HOLES = 1;
const DIGEST_AT = 32;
const DIGEST_BYTES = 32;
const KIND = { pages: 1, hole: 2, size: 3, replaced: 4 } as const;

export function encodeHeader(header: LogHeader): Uint8Array {
  const { identity, baseSizeBytes, checksHoles, keepsReplaced } = header;
  const json = Buffer.from(JSON.stringify(identity));
  const bytes = new Uint8Array(HEADER_FIXED_BYTES + json.length);
  const view = viewOf(bytes);
  bytes.set(MAGIC);
  view.setUint32(8, keepsReplaced ? VERSION : DIGESTS_ONLY);
  view.setUint32(12, json.length);
  view.setUint32(16, PAGE_BYTES);
  view.setUint32(20, checksHoles ? FLAG_CHECKS_HOLES : 0);
  writeNumber(view, 24, baseSizeBytes);
  bytes.set(json, HEADER_FIXED_BYTES);
  bytes.set(digestHeader(bytes), DIGEST_AT);
  return bytes;
}

/** How long the header is that begins with these bytes: HEADER_FIXED_BYTES of them. */
export function measureHeader(fixed: Uint8Array): number {
  const view = viewOf(fixed);
  if (fixed.length < HEADER_FIXED_BYTES || MAGIC.compare(fixed, 0, MAGIC.length) !== 0) {
    throw damaged("it does not begin as a redo log does", 0);
  }
  const version = view.getUint32(8);
  if (version < DIGESTS_ONLY || version > VERSION) {
    throw new ImgtxError("E_UNSUPPORTED", `the redo log is of version ${version}`, {
      offset: 8,
      hint: `finish it with the version of imgtx that made it; this one knows versions up to ${VERSION}`,
    });
  }
  const lengthBytes = view.getUint32(12);
  if (lengthBytes > IDENTITY_BYTES_MAX) throw damaged("its header is too long", 12);
  return HEADER_FIXED_BYTES + lengthBytes;
}

/** All bytes of the header, as measureHeader says. */
export function decodeHeader(bytes: Uint8Array): LogHeader {
  if (Buffer.compare(digestHeader(bytes), digestIn(bytes)) !== 0) throw damaged("its header is damaged", 0);
  const view = viewOf(bytes);
  const flags = view.getUint32(20);
  if (view.getUint32(16) !== PAGE_BYTES || flags > FLAG_CHECKS_HOLES) {
    throw damaged("its header says what no version of imgtx writes", 16);
  }
  return {
    identity: decodeIdentity(Buffer.from(bytes.subarray(HEADER_FIXED_BYTES)).toString()),
    baseSizeBytes: readNumber(view, 24),
    checksHoles: (flags & FLAG_CHECKS_HOLES) !== 0,
    keepsReplaced: view.getUint32(8) > DIGESTS_ONLY,
  };
}

/** A digest alone does not make it one that imgtx wrote: anybody may put a file beside an image. */
function decodeIdentity(json: string): RedoIdentity {
  try {
    const identity: unknown = JSON.parse(json);
    if (isIdentity(identity)) return identity;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw damaged("its header does not say what it is of", HEADER_FIXED_BYTES);
}

function isIdentity(value: unknown): value is RedoIdentity {
  if (typeof value !== "object" || value === null) return false;
  const fields = new Map<string, unknown>(Object.entries(value));
  const texts: (keyof RedoIdentity)[] = ["transaction", "image", "fileSystemId", "inode", "bornNs"];
  return texts.every((name) => typeof fields.get(name) === "string");
}

/** A whole frame, with its digest. previous: that of the header, or of the frame before. memory: to put it into. */
export function encodeFrame(
  head: FrameHead,
  payload: Uint8Array | readonly PageRecord[],
  previous: Uint8Array,
  memory: ReusedBytes,
): Uint8Array {
  const bytes = memory.take(FRAME_HEAD_BYTES + measurePayload(head));
  bytes.fill(0, 0, FRAME_HEAD_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, KIND[head.kind]);
  if (head.kind === "pages") view.setUint32(4, head.count);
  else if (head.kind === "size") writeNumber(view, 8, head.sizeBytes);
  else if (head.kind === "replaced") {
    view.setUint32(4, head.count);
    writeNumber(view, 8, head.first);
  } else {
    view.setUint32(4, head.digests);
    writeNumber(view, 8, head.first);
    writeNumber(view, 16, head.pages);
  }
  if (payload instanceof Uint8Array) bytes.set(payload, FRAME_HEAD_BYTES);
  else {
    for (const [index, record] of payload.entries()) {
      encodeRecord(record, bytes.subarray(FRAME_HEAD_BYTES + index * RECORD_BYTES));
    }
  }
  bytes.set(digestFrame(bytes, previous), DIGEST_AT);
  return bytes;
}

/** What the frame is, by its first FRAME_HEAD_BYTES. Undefined where no frame begins so. */
export function decodeFrameHead(bytes: Uint8Array): FrameHead | undefined {
  const view = viewOf(bytes);
  const [kind, count] = [view.getUint32(0), view.getUint32(4)];
  const [place, length] = [readNumber(view, 8), readNumber(view, 16)];
  if (!Number.isSafeInteger(place) || !Number.isSafeInteger(place + length)) return undefined;
  const isPages = count > 0 && count <= FRAME_PAGES_MAX;
  if (kind === KIND.pages && isPages) return { kind: "pages", count };
  if (kind === KIND.replaced && isPages) return { kind: "replaced", first: place as PageIndex, count };
  if (kind === KIND.size) return { kind: "size", sizeBytes: place };
  if (kind !== KIND.hole || length === 0 || count > FRAME_DIGESTS_MAX) return undefined;
  if (count !== 0 && count !== length) return undefined;
  return { kind: "hole", first: place as PageIndex, pages: length, digests: count };
}

export function measurePayload(head: FrameHead): number {
  if (head.kind === "pages") return head.count * RECORD_BYTES;
  if (head.kind === "replaced") return head.count * PAGE_BYTES;
  return head.kind === "hole" ? head.digests * PAGE_DIGEST_BYTES : 0;
}

/** Whether the whole frame is what was written after the one with that digest. */
export function isChained(bytes: Uint8Array, previous: Uint8Array): boolean {
  return Buffer.compare(digestFrame(bytes, previous), digestIn(bytes)) === 0;
}

/** The digest that a whole header or frame has in it: the next frame is chained to it. */
export function digestIn(bytes: Uint8Array): Uint8Array {
  return bytes.slice(DIGEST_AT, DIGEST_AT + DIGEST_BYTES);
}

function encodeRecord({ page, changed, forced, digests, content }: PageRecord, bytes: Uint8Array): void {
  writeNumber(viewOf(bytes), 0, page);
  bytes.fill(0, 8, RECORD_DIGESTS_AT);
  bytes[8] = changed;
  bytes[9] = forced;
  bytes.set(digests, RECORD_DIGESTS_AT);
  bytes.set(content, RECORD_CONTENT_AT);
}

/** A record, or its first RECORD_CONTENT_AT bytes. Its parts share the bytes given. */
export function decodeRecord(bytes: Uint8Array): PageRecord {
  return {
    page: readNumber(viewOf(bytes), 0) as PageIndex,
    changed: bytes[8] ?? 0,
    forced: bytes[9] ?? 0,
    digests: bytes.subarray(RECORD_DIGESTS_AT, RECORD_CONTENT_AT),
    content: bytes.subarray(RECORD_CONTENT_AT),
  };
}

export function damaged(what: string, offset: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", `the redo log can't be used: ${what}`, { offset });
}

function digestHeader(bytes: Uint8Array): Uint8Array {
  return createHash("sha256")
    .update(bytes.subarray(0, DIGEST_AT))
    .update(bytes.subarray(HEADER_FIXED_BYTES))
    .digest();
}

function digestFrame(bytes: Uint8Array, previous: Uint8Array): Uint8Array {
  return createHash("sha256")
    .update(previous)
    .update(bytes.subarray(0, DIGEST_AT))
    .update(bytes.subarray(FRAME_HEAD_BYTES))
    .digest();
}

function writeNumber(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value % 2 ** 32);
}

function readNumber(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
