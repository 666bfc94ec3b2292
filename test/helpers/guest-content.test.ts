// The crash rigs judge by this reader and this check, so they are held against qemu-img's word: the hashes
// in the fixtures' manifest, and `qemu-img check` itself where it is installed.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { FIXTURES, unpackFixture } from "./fixtures.ts";
import { guestDigest, openGuest, openHostImage, viewOf, type ImageBytes } from "./guest-content.ts";
import { oracle } from "./oracles.ts";
import { structureProblems } from "./qcow2-structure.ts";
import { sampleQcow2, type SampleImage } from "./sample-image.ts";

const folder = mkdtempSync(join(tmpdir(), "imgtx-guest-content-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const NOT_KNOWN_HERE = /zstd|data-file|over-no-format/;
const READABLE = FIXTURES.filter(
  ({ name, guest, refusal, format }) =>
    guest !== null &&
    refusal === null &&
    format !== null &&
    guest.sizeBytes <= 2 ** 26 &&
    !NOT_KNOWN_HERE.test(name),
);

test.each(READABLE.map((fixture) => [fixture.name, fixture] as const))(
  "the guest content of %s is what qemu-img read",
  async (name, fixture) => {
    const guest = openGuest(openHostImage, await unpackFixture(name), fixture.format ?? "qcow2");
    expect({ sizeBytes: guest.sizeBytes, sha256: guestDigest(guest) }).toEqual(fixture.guest);
  },
);

test("most fixtures are read", () => {
  expect(READABLE.length).toBeGreaterThan(40);
});

const SAMPLE: SampleImage = {
  virtualSizeBytes: 300 * 1024,
  dataClusters: [0, 5, 9, 70],
  zeroClusters: [3],
  seed: 4,
};
const SAMPLES: SampleImage[] = [
  SAMPLE,
  { ...SAMPLE, clusterBits: 9, dataClusters: [0, 100, 500, 511] },
  { ...SAMPLE, clusterBits: 16, dataClusters: [1, 4], zeroClusters: [] },
  { ...SAMPLE, version: 2, zeroClusters: [] },
];

function bytesOf(bytes: Uint8Array): ImageBytes {
  return { sizeBytes: bytes.length, read: (offset, length) => bytes.subarray(offset, offset + length) };
}

describe("the structure check", () => {
  test.each(SAMPLES)("finds nothing in a sample of %o", (sample) => {
    expect(structureProblems(bytesOf(sampleQcow2(sample)), "sample")).toEqual([]);
  });

  const cluster = 4096;
  test.each<[string, (bytes: DataView) => void, RegExp]>([
    ["a refcount of 2", (view) => view.setUint16(8 * cluster + 4, 2), /cluster 2 is leaked/],
    ["a refcount of 0", (view) => view.setUint16(8 * cluster + 4, 0), /cluster 2 is corrupt/],
    [
      "an L2 entry that leads to the header",
      (view) => view.setBigUint64(3 * cluster, 0n + (1n << 63n)),
      /leaked/,
    ],
    [
      "two L2 entries for one cluster",
      (view) => view.setBigUint64(3 * cluster, view.getBigUint64(3 * cluster + 40)),
      /at once/,
    ],
    [
      "an entry past the file",
      (view) => view.setBigUint64(3 * cluster, BigInt(99 * cluster)),
      /past the file/,
    ],
    ["an L1 table past the file", (view) => view.setBigUint64(40, BigInt(99 * cluster)), /past the file/],
  ])("finds %s", (_, damage, problem) => {
    const bytes = sampleQcow2(SAMPLE);
    damage(viewOf(bytes));
    expect(structureProblems(bytesOf(bytes), "sample").join()).toMatch(problem);
  });

  const CHECKED = FIXTURES.filter(
    ({ name, format }) =>
      format === "qcow2" && !/snapshots|bitmap|data-file|zstd|luks|aes|corrupt\//.test(name),
  );
  const qemu = oracle("qemu-img");
  qemu.test("agrees with qemu-img check on every plain fixture", async () => {
    expect(CHECKED.length).toBeGreaterThan(20);
    for (const { name } of CHECKED) {
      const path = await unpackFixture(name);
      const verdict = spawnSync("qemu-img", ["check", "-f", "qcow2", path]).status;
      if (verdict === 1) continue; // it could not open the image, for want of its backing image
      expect([name, structureProblems(openHostImage(path), name).length > 0]).toEqual([name, verdict !== 0]);
    }
  });

  oracle("qemu-img", "qemu-io").test("a data file's first cluster is read, and holes after it are", () => {
    const [path, raw] = [join(folder, "split.qcow2"), join(folder, "split.raw")];
    const data = join(folder, "split.data");
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-o", `data_file=${data}`, path, "256K"]);
    execFileSync("qemu-io", ["-c", "write -P 7 0 4K", "-c", "write -P 8 128K 4K", path], { stdio: "pipe" });
    execFileSync("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", path, raw]);
    const [own, qemus] = [openGuest(openHostImage, path, "qcow2"), openGuest(openHostImage, raw, "raw")];
    expect(guestDigest(own)).toBe(guestDigest(qemus));
  });

  qemu.test.each(SAMPLES)("qemu-img finds a sample of %o clean, and reads the same from it", (sample) => {
    const path = join(folder, "sample.qcow2");
    writeFileSync(path, sampleQcow2(sample));
    execFileSync("qemu-img", ["check", "-f", "qcow2", path], { stdio: "pipe" });
    execFileSync("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", path, join(folder, "sample.raw")]);
    const [own, qemus] = [
      openGuest(openHostImage, path, "qcow2"),
      openGuest(openHostImage, join(folder, "sample.raw"), "raw"),
    ];
    expect(guestDigest(own)).toBe(guestDigest(qemus));
  });
});
