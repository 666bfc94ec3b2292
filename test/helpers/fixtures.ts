// Images under fixtures/, and what is known of them. They are stored gzipped; a test unpacks what it needs into
// a folder of its own, so that it may change them.
//
// Invariants
// - Unpacked sparsely: a block of zeros becomes a hole, so that a few hundred images take little space.
// - An image comes with all that has to lie beside it (its `needs`, and theirs).

import { existsSync } from "node:fs";
import { mkdir, open, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import type { ErrorCode } from "../../src/errors/index.ts";
import { makeFolderOfFile } from "./temporary-folder.ts";

/** When a damaged image is refused: see fixtures/README.md. */
interface FixtureRefusal {
  readonly when: "open" | "write" | "later";
  readonly code: ErrorCode;
}

export interface Fixture {
  /** Its path below fixtures/, without the .gz: `corrupt/backing-self.qcow2`. */
  readonly name: string;
  readonly shows: string;
  /** How it is to be opened; null: no format is said. */
  readonly format: "qcow2" | "raw" | null;
  /** Names of the fixtures that have to lie beside it. */
  readonly needs: readonly string[];
  readonly refusal: FixtureRefusal | null;
  readonly note: string | null;
  /** Of the unpacked image. */
  readonly sizeBytes: number;
  readonly sha256: string;
  /** The full virtual disk, as qemu-img reads it; null where that is refused, or too large to hash. */
  readonly guest: { readonly sizeBytes: number; readonly sha256: string } | null;
  /** The recipe, in the words of test/tooling/fixture-recipes/helpers.sh. */
  readonly madeBy: string;
}

/** The folder that the images are stored in, gzipped. */
export const FIXTURES_FOLDER = fileURLToPath(new URL("../../fixtures/", import.meta.url));

interface Manifest {
  readonly schema: 1;
  readonly fixtures: readonly Fixture[];
}

const manifest = JSON.parse(await readFile(path.join(FIXTURES_FOLDER, "manifest.json"), "utf8")) as Manifest;

/** Every fixture, in the order of its making. */
export const FIXTURES: readonly Fixture[] = manifest.fixtures;

const unzip = promisify(gunzip);
const BLOCK_BYTES = 4096;
const ZEROS = Buffer.alloc(BLOCK_BYTES);

export function findFixture(name: string): Fixture {
  const found = FIXTURES.find((fixture) => fixture.name === name);
  if (found === undefined) throw new Error(`no fixture ${name}; fixtures/README.md lists them`);
  return found;
}

/**
 * Unpacks an image and what it needs, each at folder/NAME, and returns the image's path. What is there already
 * is left as it is. Without a folder it makes a temporary one, which is removed after the tests of the file.
 */
export async function unpackFixture(name: string, folder?: string): Promise<string> {
  const root = folder ?? makeFolderOfFile();
  for (const each of collectNeeds(name)) {
    const target = path.join(root, each);
    if (existsSync(target)) continue;
    await mkdir(path.dirname(target), { recursive: true });
    await writeSparsely(target, await unzip(await readFile(path.join(FIXTURES_FOLDER, `${each}.gz`))));
  }
  return path.join(root, name);
}

/** Unpacks every fixture into the folder, for tests that walk over all of them. */
export async function unpackAllFixtures(folder: string): Promise<void> {
  for (const { name } of FIXTURES) await unpackFixture(name, folder);
}

/**
 * Gives a fixture that has a backing name another one, in place: an absolute name can't be stored in a fixture,
 * since it is made only at run time. It must fit between the old one's start and the end of cluster 0.
 */
export async function setBackingName(image: string, name: string): Promise<void> {
  const file = await open(image, "r+");
  try {
    const header = Buffer.alloc(24);
    await file.read(header, 0, header.length, 0);
    const backingFileOffset = Number(header.readBigUInt64BE(8));
    const bytes = Buffer.from(name);
    if (backingFileOffset === 0) throw new Error(`${image} has no backing name to replace`);
    if (bytes.length > 1023 || backingFileOffset + bytes.length > 2 ** header.readUInt32BE(20)) {
      throw new Error(`a backing name of ${bytes.length} bytes does not fit into ${image}`);
    }
    header.writeUInt32BE(bytes.length, 16);
    await file.write(header, 16, 4, 16);
    await file.write(bytes, 0, bytes.length, backingFileOffset);
  } finally {
    await file.close();
  }
}

/** The fixture's name and all that it needs; two that need each other are named once. */
function collectNeeds(name: string, known: Set<string> = new Set()): Set<string> {
  if (known.has(name)) return known;
  known.add(name);
  for (const need of findFixture(name).needs) collectNeeds(need, known);
  return known;
}

async function writeSparsely(target: string, content: Buffer): Promise<void> {
  const file = await open(target, "wx");
  try {
    await file.truncate(content.length);
    for (let start = 0; start < content.length; start += BLOCK_BYTES) {
      const block = content.subarray(start, start + BLOCK_BYTES);
      if (block.equals(ZEROS.subarray(0, block.length))) continue;
      const { bytesWritten } = await file.write(block, 0, block.length, start);
      if (bytesWritten !== block.length) throw new Error(`a short write to ${target}`);
    }
  } finally {
    await file.close();
  }
}
