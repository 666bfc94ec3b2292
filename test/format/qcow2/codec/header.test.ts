import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeHeader, encodeHeader } from "../../../../src/format/qcow2/codec/header.ts";
import { errorOf } from "../../../helpers/expect-error.ts";
import { CLUSTER_V2, HEADER_V3, headerFields, patch } from "../../../helpers/format/header-samples.ts";

describe("qcow2 header", () => {
  test("decodes the version 3 header that qemu-img writes", () => {
    expect(decodeHeader(HEADER_V3)).toEqual({
      version: 3,
      backingFileOffset: 0x210,
      backingFileSize: 5,
      clusterBits: 16,
      size: 1024,
      cryptMethod: 0,
      l1Size: 1,
      l1TableOffset: 0x30000,
      refcountTableOffset: 0x10000,
      refcountTableClusters: 1,
      nbSnapshots: 0,
      snapshotsOffset: 0,
      incompatibleFeatures: [],
      compatibleFeatures: [],
      autoclearFeatures: [],
      refcountOrder: 4,
      headerLength: 112,
      compressionType: 0,
      furtherFields: new Uint8Array(7),
    });
  });

  test("decodes a version 2 header with what version 2 implies", () => {
    const fields = decodeHeader(CLUSTER_V2);
    expect(fields).toMatchObject({
      version: 2,
      headerLength: 72,
      refcountOrder: 4,
      incompatibleFeatures: [],
    });
  });

  test("decodes feature bits of all 64", () => {
    const bits = patch(patch(HEADER_V3, 72, "8000000000000013"), 88, "0000000100000003");
    expect(decodeHeader(bits)).toMatchObject({
      incompatibleFeatures: [0, 1, 4, 63],
      autoclearFeatures: [0, 1, 32],
    });
  });

  test("encodes what it decoded byte for byte", () => {
    expect(encodeHeader(decodeHeader(HEADER_V3))).toEqual(HEADER_V3);
    expect(encodeHeader(decodeHeader(CLUSTER_V2))).toEqual(CLUSTER_V2.slice(0, 72));
  });

  test("gives back any fields, further ones included", () => {
    fc.assert(
      fc.property(headerFields, (fields) => {
        expect(decodeHeader(encodeHeader(fields))).toEqual(fields);
      }),
    );
  });

  test("keeps a compression type of zstd with its bit", () => {
    const zstd = patch(patch(HEADER_V3, 72, "0000000000000008"), 104, "01");
    expect(decodeHeader(zstd).compressionType).toBe(1);
    expect(encodeHeader(decodeHeader(zstd))).toEqual(zstd);
  });

  test.each([
    ["a missing magic", 0, "00", "E_CORRUPT", "magic"],
    ["version 1", 4, "00000001", "E_UNSUPPORTED", "version"],
    ["version 4", 4, "00000004", "E_UNSUPPORTED", "version"],
    ["clusters of 256 bytes", 20, "00000008", "E_CORRUPT", "cluster_bits"],
    ["clusters of 4 MiB", 20, "00000016", "E_CORRUPT", "cluster_bits"],
    ["a backing name past 2^53", 8, "0020000000000000", "E_CORRUPT", "backing_file_offset"],
    ["a virtual size of 2^53", 24, "0020000000000000", "E_UNSUPPORTED", "size"],
    ["a virtual size of 2^63", 24, "8000000000000000", "E_CORRUPT", "size"],
    ["an L1 table past 2^53", 40, "0020000000000000", "E_CORRUPT", "l1_table_offset"],
    ["refcounts of 128 bits", 96, "00000007", "E_CORRUPT", "refcount_order"],
    ["a header shorter than 104 bytes", 100, "00000060", "E_CORRUPT", "header_length"],
    ["a header length that is no multiple of 8", 100, "0000006d", "E_CORRUPT", "header_length"],
    ["a header longer than a cluster", 100, "00010008", "E_CORRUPT", "header_length"],
    ["a header longer than the file", 100, "00000078", "E_CORRUPT", "header_length"],
    ["an unknown compression type", 104, "02", "E_UNSUPPORTED", "compression_type"],
    ["zstd without its bit", 104, "01", "E_CORRUPT", "compression_type"],
    ["the compression bit without a type", 72, "0000000000000008", "E_CORRUPT", "compression_type"],
  ])("refuses %s", (_, at, hex, code, field) => {
    const error = errorOf(() => decodeHeader(patch(HEADER_V3, at, hex)));
    expect(error).toMatchObject({ code, field });
    expect(error.offset).toBeTypeOf("number");
  });

  test("refuses extended L2 entries in clusters below 16 KiB", () => {
    const small = patch(patch(HEADER_V3, 72, "0000000000000010"), 20, "0000000d");
    expect(errorOf(() => decodeHeader(small))).toMatchObject({ code: "E_CORRUPT", field: "cluster_bits" });
  });

  test("refuses a file that ends inside the header, wherever it ends", () => {
    for (let length = 0; length < HEADER_V3.length; length += 1) {
      expect(errorOf(() => decodeHeader(HEADER_V3.subarray(0, length))).code).toBe("E_CORRUPT");
    }
  });
});
