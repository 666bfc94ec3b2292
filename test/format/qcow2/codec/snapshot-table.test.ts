import { readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  decodeSnapshotEntry,
  encodeSnapshotEntry,
  judgeSnapshotTable,
  SNAPSHOT_ENTRY_BYTES_MAX,
  type SnapshotEntry,
} from "../../../../src/format/qcow2/codec/snapshot-table.ts";
import { hostOffset } from "../../../../src/units/index.ts";
import { unpackFixture } from "../../../helpers/fixtures.ts";
import { errorOf } from "../../../helpers/expect-error.ts";

/** All entries of the table of an image. */
function decodeAll(image: Uint8Array): { entry: SnapshotEntry; stored: Uint8Array }[] {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const found = [];
  let at = Number(view.getBigUint64(64));
  for (let index = 0; index < view.getUint32(60); index += 1) {
    const { entry, lengthBytes } = decodeSnapshotEntry(image.subarray(at));
    found.push({ entry, stored: image.subarray(at, at + lengthBytes) });
    at += lengthBytes;
  }
  return found;
}

const ENTRY: SnapshotEntry = {
  l1TableOffset: hostOffset(0x50000),
  l1Size: 1,
  id: "1",
  name: "first",
  dateSec: 1_700_000_000,
  dateNsec: 5,
  vmClockSec: 7,
  vmClockNsec: 8,
  vmStateSize: 0,
  diskSize: 1_048_576,
  icount: undefined,
  extraData: new Uint8Array(16),
  idBytes: Uint8Array.of(0x31),
  nameBytes: new TextEncoder().encode("first"),
};

describe("a snapshot table entry", () => {
  test.each(["snapshots.qcow2", "snapshots-v2.qcow2", "snapshots-resized.qcow2"])(
    "of %s decodes, and encodes to the same bytes",
    async (name) => {
      const all = decodeAll(readFileSync(await unpackFixture(name)));
      expect(all.length).toBeGreaterThan(0);
      for (const { entry, stored } of all) {
        expect([entry.id, entry.l1Size]).toEqual([expect.stringMatching(/^\d+$/), expect.any(Number)]);
        expect(entry.l1TableOffset % 512).toBe(0);
        expect(encodeSnapshotEntry(entry)).toEqual(new Uint8Array(stored));
      }
    },
  );

  test("has its fields where the specification has them", () => {
    const bytes = encodeSnapshotEntry({ ...ENTRY, vmStateSize: 2 ** 33 + 7 });
    const view = new DataView(bytes.buffer);
    expect(bytes.length).toBe(64);
    expect([view.getBigUint64(0), view.getUint32(8)]).toEqual([0x50000n, 1]);
    expect([view.getUint16(12), view.getUint16(14)]).toEqual([1, 5]);
    expect([view.getUint32(16), view.getUint32(20)]).toEqual([1_700_000_000, 5]);
    expect(view.getBigUint64(24)).toBe(7_000_000_008n);
    expect([view.getUint32(32), view.getUint32(36)]).toEqual([7, 16]);
    expect([view.getBigUint64(40), view.getBigUint64(48)]).toEqual([2n ** 33n + 7n, 1_048_576n]);
    expect(Buffer.from(bytes.subarray(56)).toString()).toBe("1first\0\0");
  });

  test("keeps names that are not UTF-8, extra data that is not known, and clocks beyond 2^53 ns", () => {
    const bytes = fc.uint8Array({ maxLength: 40 });
    const extra = fc
      .constantFrom(0, 8, 16, 24, 100)
      .chain((size) => fc.uint8Array({ minLength: size, maxLength: size }));
    fc.assert(
      fc.property(
        bytes,
        bytes,
        extra,
        fc.nat(2 ** 31),
        fc.nat(999_999_999),
        (idBytes, nameBytes, extraData, sec, nsec) => {
          // The sizes in extra data must be numbers that a file can have.
          for (const at of [0, 1, 8, 9]) if (at < extraData.length) extraData[at] = 0;
          const stored = encodeSnapshotEntry({
            ...ENTRY,
            vmClockSec: sec,
            vmClockNsec: nsec,
            vmStateSize: extraData.length >= 8 ? 9 : 3,
            diskSize: extraData.length >= 16 ? 4096 : undefined,
            extraData,
            idBytes,
            nameBytes,
          });
          const { entry, lengthBytes } = decodeSnapshotEntry(Uint8Array.from([...stored, 1, 2, 3]));
          expect([entry.vmClockSec, entry.vmClockNsec]).toEqual([sec, nsec]);
          expect(lengthBytes).toBe(stored.length);
          expect(encodeSnapshotEntry(entry)).toEqual(stored);
        },
      ),
      { numRuns: 200, seed: 3 },
    );
  });

  test("of version 2 has no disk size, and its VM state size in 32 bits", () => {
    const stored = encodeSnapshotEntry({
      ...ENTRY,
      vmStateSize: 0xfedcba98,
      diskSize: undefined,
      extraData: new Uint8Array(0),
    });
    const { entry } = decodeSnapshotEntry(stored);
    expect([entry.vmStateSize, entry.diskSize, entry.icount]).toEqual([0xfedcba98, undefined, undefined]);
  });

  test("with an instruction count has it, and all ones is none", () => {
    const extraData = new Uint8Array(24);
    new DataView(extraData.buffer).setBigUint64(16, 77n);
    expect(decodeSnapshotEntry(encodeSnapshotEntry({ ...ENTRY, extraData })).entry.icount).toBe(77);
    extraData.fill(0xff, 16);
    expect(decodeSnapshotEntry(encodeSnapshotEntry({ ...ENTRY, extraData })).entry.icount).toBeUndefined();
  });

  test("is refused where it is cut short, or has too much extra data", () => {
    const stored = encodeSnapshotEntry(ENTRY);
    for (const length of [0, 39, 40, 55, 61]) {
      expect(errorOf(() => decodeSnapshotEntry(stored.subarray(0, length))).code).toBe("E_CORRUPT");
    }
    new DataView(stored.buffer).setUint32(36, 1025);
    expect(errorOf(() => decodeSnapshotEntry(stored))).toMatchObject({
      code: "E_CORRUPT",
      field: "extra_data_size",
    });
    expect(SNAPSHOT_ENTRY_BYTES_MAX).toBeGreaterThan(40 + 1024 + 2 * 65_535);
  });

  test.each([
    ["is too large", { l1Size: 4 * 1024 * 1024 + 1 }],
    ["is not aligned", { l1TableOffset: hostOffset(0x50200) }],
    ["lies on the header", { l1TableOffset: hostOffset(0) }],
    ["ends past the end of the file", { l1TableOffset: hostOffset(0x100000) }],
  ])("whose L1 table %s is refused by those who use it", (_, change) => {
    judgeSnapshotTable(ENTRY, 65_536, 0x100000);
    const error = errorOf(() => {
      judgeSnapshotTable({ ...ENTRY, ...change }, 65_536, 0x100000);
    });
    expect(error.code).toBe("E_CORRUPT");
  });
});
