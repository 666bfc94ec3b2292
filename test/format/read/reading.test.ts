// Every fixture whose content QEMU reads gives the same bytes here; every one that is damaged where guest data
// is read is refused with a typed error that has a place and a hint.

import { guestOffset, guestRange } from "../../../src/units/index.ts";
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import type { Image } from "../../../src/format/index.ts";
import { openImage } from "../../../src/format/index.ts";
import { startEffort } from "../../helpers/effort.ts";
import { FIXTURES, type Fixture, unpackFixture } from "../../helpers/fixtures.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeFolder, watchStorage } from "../../helpers/temporary-folder.ts";

const readable = FIXTURES.filter((each) => each.guest !== null && each.refusal?.when !== "open");
/** What damages no table that a reader looks at, or nothing that it can see. */
const UNSEEN = /^corrupt\/(?:bitmap|snapshot|refcount)|^corrupt\/l2-entry-shared/;
const unreadable = FIXTURES.filter((each) => each.refusal?.when === "later" && !UNSEEN.test(each.name));

async function openFixture(fixture: Fixture) {
  const folder = makeFolder();
  const path = await unpackFixture(fixture.name, folder);
  const watched = watchStorage();
  const currentFolder = path.slice(0, path.lastIndexOf("/"));
  const gate = { workspaceRoot: folder, allowPaths: [], currentFolder };
  const image = await openImage(watched.storage, path, { format: fixture.format ?? undefined, gate });
  return { image, countOpen: watched.countOpen };
}

/** Read in steps that fit neither clusters nor sectors. */
async function hashGuest(image: Image, stepBytes: number): Promise<string> {
  const hash = createHash("sha256");
  const buffer = new Uint8Array(stepBytes);
  for (let at = 0; at < image.virtualSizeBytes; at += stepBytes) {
    const part = buffer.subarray(0, Math.min(stepBytes, image.virtualSizeBytes - at)).fill(0xee);
    await image.read(part, guestOffset(at));
    hash.update(part);
  }
  return hash.digest("hex");
}

/** The same from extents, as a copy does it: what is zero is not read. */
async function hashExtents(image: Image): Promise<string> {
  const hash = createHash("sha256");
  for (let at = 0; at < image.virtualSizeBytes; ) {
    const extents = await image.findExtents(guestRange(at, image.virtualSizeBytes - at));
    for (const extent of extents) {
      expect(extent.start).toBe(at);
      const bytes = new Uint8Array(extent.lengthBytes);
      if (extent.kind === "data" && extent.hostOffset !== undefined) {
        await image.layers[extent.depth]?.dataFile.read(bytes, extent.hostOffset);
      } else if (extent.kind === "compressed") {
        await image.read(bytes, guestOffset(at));
      }
      hash.update(bytes);
      at += extent.lengthBytes;
    }
    expect(extents.length).toBeGreaterThan(0);
  }
  return hash.digest("hex");
}

describe("a fixture that QEMU reads", () => {
  test.each(readable.map((fixture) => [fixture.name, fixture] as const))(
    "%s has the same guest content",
    async (_name, fixture) => {
      const { image, countOpen } = await openFixture(fixture);
      const steps = [1024 * 1024, 65_537, ...(image.virtualSizeBytes <= 512 * 1024 ? [777] : [])];
      for (const step of steps) expect(await hashGuest(image, step)).toBe(fixture.guest?.sha256);
      expect(await hashExtents(image)).toBe(fixture.guest?.sha256);
      await image.close();
      expect(countOpen()).toBe(0);
    },
  );
});

describe("a fixture that is damaged", () => {
  test.each(unreadable.map((fixture) => [fixture.name, fixture] as const))(
    "%s is refused by whoever reads it",
    async (_name, fixture) => {
      const { image } = await openFixture(fixture);
      const effort = startEffort();
      const error = await errorFrom(hashGuest(image, 1024 * 1024));
      expect(error.code).toBe(fixture.refusal?.code);
      expect(error.image).toBe(image.path);
      expect(error.offset).toBeTypeOf("number");
      expect(error.hint).toBeTypeOf("string");
      expect(effort()).toBeLessThan(2000);
      await image.close();
    },
  );
});
