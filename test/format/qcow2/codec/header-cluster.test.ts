import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../../src/errors/index.ts";
import { decodeHeader } from "../../../../src/format/qcow2/codec/header.ts";
import {
  decodeHeaderCluster,
  encodeHeaderCluster,
  measureHeaderCluster,
} from "../../../../src/format/qcow2/codec/header-cluster.ts";
import { hostOffset } from "../../../../src/units/index.ts";
import { errorOf } from "../../../helpers/expect-error.ts";
import {
  CLUSTER_512,
  CLUSTER_V2,
  fromHex,
  HEADER_V3,
  headerExtensions,
  patch,
  SAMPLE_FILE_BYTES,
} from "../../../helpers/format/header-samples.ts";

const FILE_BYTES_512 = 0x608;
const END_MARK = "0000000000000000";

/** A version 3 header without a backing file, padded to a cluster of 64 KiB; tables as qemu-img lays them. */
function sample(at: number, hex: string, extensionsHex = END_MARK): Uint8Array {
  const cluster = new Uint8Array(65_536);
  cluster.set(patch(patch(HEADER_V3, 8, "0000000000000000"), at, hex));
  cluster.set(fromHex(extensionsHex), 112);
  return cluster;
}

describe("qcow2 header cluster", () => {
  test("is decoded from qemu-img's bytes", () => {
    expect(decodeHeaderCluster(CLUSTER_512, FILE_BYTES_512)).toMatchObject({
      backingFileName: "b.raw",
      backingFormat: "raw",
      clusterSizeBytes: 512,
      refcountBits: 16,
      isDirty: false,
      isCorrupt: false,
      hasExtendedL2: false,
      hasExternalDataFile: false,
      dataFileName: undefined,
    });
    expect(decodeHeaderCluster(CLUSTER_V2, SAMPLE_FILE_BYTES)).toMatchObject({
      version: 2,
      backingFileName: "b.raw",
    });
  });

  test.each([
    ["CLUSTER_V2", CLUSTER_V2],
    ["CLUSTER_512", CLUSTER_512],
  ])("%s is encoded byte for byte as qemu-img wrote it", (_, cluster) => {
    const { extensions, backingFileName } = decodeHeaderCluster(cluster, SAMPLE_FILE_BYTES);
    const fields = { ...decodeHeader(cluster), backingFileOffset: hostOffset(0), backingFileSize: 0 };
    expect(encodeHeaderCluster({ fields, extensions, backingFileName })).toEqual(cluster);
  });

  test("says by name which feature bits are set", () => {
    const bits = sample(
      72,
      "0000000000000017 0000000000000001 0000000000000002",
      `44415441 00000001 64${"00".repeat(7)}${END_MARK}`,
    );
    expect(decodeHeaderCluster(bits, SAMPLE_FILE_BYTES)).toMatchObject({
      isDirty: true,
      isCorrupt: true,
      hasExternalDataFile: true,
      hasExtendedL2: true,
      hasLazyRefcounts: true,
      hasRawExternalData: true,
      dataFileName: "d",
    });
  });

  test("asks for no more bytes than the extensions and the name take", () => {
    const padded = new Uint8Array(4096);
    padded.set(CLUSTER_V2);
    expect(measureHeaderCluster(padded)).toBe(CLUSTER_V2.length);
    expect(measureHeaderCluster(sample(0, "51"))).toBe(120);
    const far = patch(sample(8, "0000000000008000"), 16, "00000010");
    expect(measureHeaderCluster(far.subarray(0, 4096))).toBe(0x8010);
  });

  test("asks for one cluster at most, whatever the bytes say", () => {
    fc.assert(
      fc.property(mutations(HEADER_V3), (bytes) => {
        const padded = new Uint8Array(4096);
        padded.set(bytes);
        expect(measureHeaderCluster(padded)).toBeLessThanOrEqual(2 ** 21);
      }),
    );
  });

  test("does not fit when extensions and name exceed the cluster", () => {
    const fields = { ...decodeHeader(CLUSTER_512), backingFileOffset: hostOffset(0) };
    const fits = encodeHeaderCluster({ fields, extensions: [], backingFileName: "x".repeat(392) });
    expect(fits).toHaveLength(512);
    expect(encodeHeaderCluster({ fields, extensions: [], backingFileName: "x".repeat(393) })).toBeUndefined();
  });

  test("gives back any extensions and name", () => {
    const fields = { ...decodeHeader(HEADER_V3), backingFileOffset: hostOffset(0), backingFileSize: 0 };
    const names = fc
      .string({ unit: "grapheme", minLength: 1, maxLength: 100 })
      .filter((name) => !name.includes("\0"));
    const harmless = headerExtensions.map((list) =>
      list.filter((extension) => extension.kind !== "fullDiskEncryption"),
    );
    fc.assert(
      fc.property(harmless, names, (extensions, backingFileName) => {
        const bytes = encodeHeaderCluster({ fields, extensions, backingFileName });
        expect(decodeHeaderCluster(bytes ?? new Uint8Array(0), SAMPLE_FILE_BYTES)).toMatchObject({
          extensions,
          backingFileName,
        });
      }),
    );
  });

  const bitmaps = (hex: string) => `23852875 00000018 ${hex} ${END_MARK}`;

  test.each([
    ["an L1 table over 32 MiB", 36, "00400001", "l1_size"],
    ["an L1 table too small for the virtual size", 24, "0000000020000001", "l1_size"],
    ["an L1 table that is not aligned", 40, "0000000000030200", "l1_table_offset"],
    ["an L1 table on the header", 40, "0000000000000000", "l1_table_offset"],
    ["an L1 table past the end of the file", 40, "0000000000040000", "l1_table_offset"],
    ["an L1 table on the refcount table", 40, "0000000000010000", "l1_table_offset"],
    ["no refcount table", 56, "00000000", "refcount_table_clusters"],
    ["a refcount table over 8 MiB", 56, "00000081", "refcount_table_clusters"],
    ["a refcount table past the end of the file", 56, "00000080", "refcount_table_offset"],
    ["65,537 internal snapshots", 60, "00010001", "nb_snapshots"],
    ["a snapshot table past the end of the file", 60, "00000001 0000000000040000", "snapshots_offset"],
    ["a snapshot table on the header", 60, "00000001 0000000000000000", "snapshots_offset"],
    ["a backing name in the header", 8, "0000000000000048 00000004", "backing_file_offset"],
    ["a backing name past the cluster", 8, "0000000000010001 00000004", "backing_file_offset"],
    ["a backing name of 1024 bytes", 8, "0000000000000078 00000400", "backing_file_size"],
    ["a backing name that leaves the cluster", 8, "000000000000fff8 00000009", "backing_file_size"],
    ["LUKS without its header", 32, "00000002", "crypt_method"],
    ["a raw data file without a data file", 88, "0000000000000002", "autoclear_features"],
  ])("is refused with %s", (_, at, hex, field) => {
    expect(errorOf(() => decodeHeaderCluster(sample(at, hex), SAMPLE_FILE_BYTES))).toMatchObject({
      code: "E_CORRUPT",
      field,
    });
  });

  test.each([
    ["no bitmaps", "00000000 00000000 0000000000000020 0000000000020000", "nb_bitmaps"],
    ["65,536 bitmaps", "00010000 00000000 0000000000000020 0000000000020000", "nb_bitmaps"],
    [
      "a directory over 64 MiB",
      "00000001 00000000 0000000004000001 0000000000020000",
      "bitmap_directory_size",
    ],
    [
      "a directory off the cluster",
      "00000001 00000000 0000000000000020 0000000000020200",
      "bitmap_directory_offset",
    ],
    [
      "a directory past the end",
      "00000001 00000000 0000000000000020 0000000000040000",
      "bitmap_directory_offset",
    ],
  ])("is refused with %s, while the bitmaps bit says that they are consistent", (_, hex, field) => {
    const consistent = sample(88, "0000000000000001", bitmaps(hex));
    expect(errorOf(() => decodeHeaderCluster(consistent, SAMPLE_FILE_BYTES))).toMatchObject({ field });
    const stale = sample(88, "0000000000000000", bitmaps(hex));
    expect(decodeHeaderCluster(stale, SAMPLE_FILE_BYTES).extensions).toHaveLength(1);
  });

  test("is decoded, or refused with a typed error, whatever its bytes are", () => {
    for (const cluster of [CLUSTER_512, CLUSTER_V2, sample(0, "51").subarray(0, 4096)]) {
      fc.assert(
        fc.property(mutations(cluster), fc.nat({ max: 0x40000 }), (bytes, fileSizeBytes) => {
          try {
            const header = decodeHeaderCluster(bytes, fileSizeBytes);
            expect(header.l1TableOffset + header.l1Size * 8).toBeLessThan(
              fileSizeBytes + header.clusterSizeBytes,
            );
          } catch (error) {
            expect(error).toBeInstanceOf(ImgtxError);
            expect((error as ImgtxError).code).toMatch(/^E_(CORRUPT|UNSUPPORTED)$/);
          }
        }),
        { numRuns: 400 },
      );
    }
  });
});

/** Copies with a few bytes changed, or one 32-bit field set to something extreme. */
function mutations(bytes: Uint8Array): fc.Arbitrary<Uint8Array> {
  const extremes = fc.constantFrom(0, 1, 2, 7, 9, 21, 63, 0x7fffffff, 0x80000000, 0xffffffff, 0x10000);
  const fieldChange = fc.tuple(fc.nat({ max: Math.floor(bytes.length / 4) - 1 }), extremes);
  const byteChange = fc.tuple(fc.nat({ max: Math.min(bytes.length, 200) - 1 }), fc.nat({ max: 255 }));
  return fc
    .tuple(fc.array(fieldChange, { maxLength: 3 }), fc.array(byteChange, { maxLength: 4 }))
    .map(([fields, changes]) => {
      const copy = bytes.slice();
      const view = new DataView(copy.buffer);
      for (const [index, value] of fields) view.setUint32(index * 4, value);
      for (const [at, value] of changes) copy[at] = value;
      return copy;
    });
}
