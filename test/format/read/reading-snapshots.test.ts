// Internal snapshots: their list, and the guest data of one.

import { guestOffset } from "../../../src/units/index.ts";
import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { openChain, openImage } from "../../../src/format/index.ts";
import { readSnapshotTable, readSoundSnapshots } from "../../../src/format/qcow2/read/qcow2-snapshots.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { unpackFixture } from "../../helpers/fixtures.ts";
import { oracle } from "../../helpers/oracles.ts";
import { errorFrom } from "../../helpers/expect-error.ts";

const storage = makeNodeStorage();
const qemu = oracle("qemu-img");
const OPTIONS = { format: "qcow2", gate: { allowPaths: [], currentFolder: "/" } } as const;

/** The first bytes of each range of 4 KiB, from the start. */
async function readFirstBytes(path: string, snapshot: string | undefined, count: number): Promise<number[]> {
  const image = await openImage(storage, path, { ...OPTIONS, snapshot });
  const bytes = new Uint8Array(count * 4096);
  await image.read(bytes, guestOffset(0));
  await image.close();
  return Array.from({ length: count }, (_, index) => bytes[index * 4096] ?? -1);
}

describe("an internal snapshot", () => {
  test("is read by its id and by its name, beside the present", async () => {
    const path = await unpackFixture("snapshots.qcow2");
    expect(await readFirstBytes(path, undefined, 4)).toEqual([0x61, 0x62, 0x64, 0x61]);
    for (const snapshot of ["1", "first"]) {
      expect(await readFirstBytes(path, snapshot, 4)).toEqual([0x61, 0x61, 0x61, 0x61]);
    }
    for (const snapshot of ["2", "zweiter Stand ä"]) {
      expect(await readFirstBytes(path, snapshot, 4)).toEqual([0x61, 0x62, 0x61, 0x61]);
    }
  });

  test("that there is not is refused with those that there are", async () => {
    const path = await unpackFixture("snapshots.qcow2");
    const error = await errorFrom(openImage(storage, path, { ...OPTIONS, snapshot: "third" }));
    expect(error).toMatchObject({ code: "E_NOT_FOUND", image: path });
    expect(error.hint).toContain('"first"');
    const none = await errorFrom(
      openImage(storage, await unpackFixture("v3.qcow2"), { ...OPTIONS, snapshot: "1" }),
    );
    expect(none.hint).toBe("the image has no internal snapshots");
  });

  test("of raw is refused", async () => {
    const path = await unpackFixture("plain.raw");
    const error = await errorFrom(openImage(storage, path, { ...OPTIONS, format: "raw", snapshot: "1" }));
    expect(error).toMatchObject({ code: "E_UNSUPPORTED", image: path });
  });

  test.each(["corrupt/snapshot-l1-huge.qcow2", "corrupt/snapshot-l1-at-header.qcow2"])(
    "with a damaged table is listed, and refused by those who use it: %s",
    async (name) => {
      const path = await unpackFixture(name);
      const chain = await openChain(storage, path, OPTIONS);
      const [link] = chain.links;
      expect((await readSnapshotTable(link!)).entries.map((entry) => entry.id)).toEqual(["1", "2"]);
      const uses = [
        () => readSoundSnapshots(link!),
        () => openImage(storage, path, { ...OPTIONS, snapshot: "1" }),
      ];
      for (const use of uses) {
        const error = await errorFrom(use());
        expect(error).toMatchObject({ code: "E_CORRUPT", image: path });
        expect(error.message).toContain('"first"');
      }
      await chain.close();
    },
  );

  test("with too much extra data is refused with its place in the table", async () => {
    const path = await unpackFixture("corrupt/snapshot-extra-huge.qcow2");
    const chain = await openChain(storage, path, OPTIONS);
    const [link] = chain.links;
    const error = await errorFrom(readSnapshotTable(link!));
    expect(error).toMatchObject({ code: "E_CORRUPT", image: path, offset: link?.header?.snapshotsOffset });
    await chain.close();
  });
});

interface ListedSnapshot {
  readonly id: string;
  readonly name: string;
  readonly "date-sec": number;
  readonly "date-nsec": number;
  readonly "vm-clock-sec": number;
  readonly "vm-clock-nsec": number;
  readonly "vm-state-size": number;
}

describe("the snapshot table", () => {
  qemu.test.each(["snapshots.qcow2", "snapshots-v2.qcow2", "snapshots-resized.qcow2", "v3.qcow2"])(
    "of %s is what qemu-img info lists",
    async (name) => {
      const path = await unpackFixture(name);
      const chain = await openChain(storage, path, OPTIONS);
      const { entries, lengthBytes } = await readSnapshotTable(chain.links[0]!);
      await chain.close();
      const info = execFileSync("qemu-img", ["info", "--output=json", path], { encoding: "utf8" });
      const listed = (JSON.parse(info) as { snapshots?: ListedSnapshot[] }).snapshots ?? [];
      expect(
        entries.map(({ id, name, dateSec, vmClockSec, vmStateSize }) => [
          id,
          name,
          dateSec,
          vmClockSec,
          vmStateSize,
        ]),
      ).toEqual(
        listed.map((each) => [
          each.id,
          each.name,
          each["date-sec"],
          each["vm-clock-sec"],
          each["vm-state-size"],
        ]),
      );
      expect(lengthBytes % 8).toBe(0);
    },
  );
});
