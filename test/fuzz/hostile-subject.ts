// The sound images that hostile ones are made of, and the disk that they lie on: a folder of their own, and
// beside it what no image may lead to.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { findStructure, type Structure } from "./image-structure.ts";
import { MemoryDisk } from "./memory-storage.ts";

export const IMAGE_FOLDER = "/fuzz/image";
export const IMAGE_PATH = `${IMAGE_FOLDER}/image.qcow2`;
export const SECRET_PATH = "/host/secret.raw";
export const GOLDEN_PATH = "/host/golden.qcow2";

interface SubjectRow {
  /** Of fixtures/. */
  readonly name: string;
  /** Fixtures that it needs beside it. */
  readonly needs?: readonly string[];
}

export const SUBJECTS: readonly SubjectRow[] = [
  { name: "cluster-512.qcow2" },
  { name: "cluster-4k.qcow2" },
  { name: "refcount-1.qcow2" },
  { name: "refcount-2.qcow2" },
  { name: "refcount-8.qcow2" },
  { name: "refcount-64.qcow2" },
  { name: "compressed-zlib-512.qcow2" },
  { name: "snapshots-resized.qcow2" },
  { name: "snapshots.qcow2" },
  { name: "extended-l2-16k.qcow2" },
  { name: "unaligned-end.qcow2" },
  { name: "over-mixed.qcow2", needs: ["base.qcow2"] },
  { name: "over-snapshots.qcow2", needs: ["snapshots.qcow2"] },
  { name: "over-raw.qcow2", needs: ["base.raw"] },
  { name: "data-file-raw.qcow2", needs: ["data-file-raw.raw"] },
  { name: "data-file.qcow2", needs: ["data-file.bin"] },
  { name: "v2.qcow2" },
  { name: "lazy-refcounts.qcow2" },
  { name: "compressed-zlib.qcow2" },
  { name: "compressed-zstd.qcow2" },
  { name: "extended-l2.qcow2" },
  { name: "zero-clusters.qcow2" },
  { name: "bitmap-in-use.qcow2" },
  { name: "bitmaps.qcow2" },
];

export interface Subject {
  readonly image: Buffer;
  readonly structure: Structure;
  readonly needs: ReadonlyMap<string, Buffer>;
}

const FIXTURES_FOLDER = fileURLToPath(new URL("../../fixtures/", import.meta.url));
const known = new Map<string, Subject>();
const unpacked = new Map<string, Buffer>();

export function loadSubject(name: string): Subject {
  const found = known.get(name);
  if (found) return found;
  const row = SUBJECTS.find((each) => each.name === name);
  if (!row) throw new Error(`no subject is called ${name}`);
  const image = unpack(name);
  const needs = new Map((row.needs ?? []).map((need) => [need, unpack(need)]));
  const subject = { image, structure: findStructure(image), needs };
  known.set(name, subject);
  return subject;
}

function unpack(name: string): Buffer {
  const found = unpacked.get(name) ?? gunzipSync(readFileSync(`${FIXTURES_FOLDER}${name}.gz`));
  unpacked.set(name, found);
  return found;
}

/** A disk with the image at IMAGE_PATH, what it needs beside it, and the host's files elsewhere. */
export function makeDisk(subject: Subject, image: Buffer): MemoryDisk {
  const disk = new MemoryDisk();
  disk.put(IMAGE_PATH, image);
  for (const [name, content] of subject.needs) disk.put(`${IMAGE_FOLDER}/${name}`, content);
  disk.put(`${IMAGE_FOLDER}/beside.raw`, Buffer.alloc(4096, "beside"));
  disk.put(SECRET_PATH, Buffer.alloc(4096, "secret"));
  disk.put(GOLDEN_PATH, unpack("cluster-512.qcow2"));
  disk.putDevice("/dev/null");
  return disk;
}
