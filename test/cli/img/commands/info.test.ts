import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { describe, expect } from "vitest";
import { makeFolder, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";
import { FIXTURES } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { fromHex } from "../../../helpers/format/header-samples.ts";
import { formatWords, runOnFixtures, runOnImages } from "../../../helpers/cli/fixtures-against-qemu.ts";

const qemu = oracle("qemu-img");

/** What qemu-img describes, and imgtx refuses. */
const REFUSED_BY_IMGTX: Readonly<Record<string, string>> = {
  "corrupt/header-truncated-v2.qcow2": "the file ends inside the header",
  "corrupt/extensions-unended.qcow2": "the extensions have no end mark",
  "corrupt/feature-table-odd.qcow2": "the feature name table ends inside an entry",
  "corrupt/l1-at-header.qcow2": "the L1 table lies on the header",
  "corrupt/refcount-table-at-header.qcow2": "the refcount table lies on the header",
  "corrupt/refcount-table-at-l1.qcow2": "two tables overlap",
  "corrupt/backing-name-in-header.qcow2": "the backing name lies on the header",
  "corrupt/backing-name-nul.qcow2": "the backing name holds a NUL, where qemu-img cuts it",
  "corrupt/data-file-raw-backing.qcow2": "a raw data file and a backing file exclude each other",
  "corrupt/snapshots-past-end.qcow2": "qemu-img makes up two snapshots of zeros",
  "corrupt/foreign.vmdk": "another format",
  "corrupt/foreign.vdi": "another format",
  "corrupt/foreign.qed": "another format",
  "corrupt/foreign.qcow": "another format",
};

/** Names with control characters: qemu-img sends them to the terminal as they are. */
const ESCAPED_BY_IMGTX: ReadonlySet<string> = new Set(["corrupt/backing-name-control.qcow2"]);

describe("info of a fixture prints and ends as qemu-img's", () => {
  qemu.test.each(FIXTURES.map(({ name, format }) => ({ name, format })))(
    "$name",
    async ({ name, format }) => {
      for (const form of ["json", "human"]) {
        const { qemu: theirs, ours } = await runOnFixtures([
          "info",
          ...formatWords(format),
          `--output=${form}`,
          name,
        ]);
        if (name in REFUSED_BY_IMGTX) {
          expect(theirs.status).toBe(0);
          expect(ours).toMatchObject({ status: 1, stdout: "" });
          expect(ours.stderr).toMatch(/^qemu-img: Could not open '/);
        } else if (ESCAPED_BY_IMGTX.has(name)) {
          expect(theirs.status).toBe(0);
          expect(ours.status).toBe(0);
          expect(ours.stdout).not.toContain("\u001b");
        } else {
          expect({ status: ours.status, stdout: ours.stdout }).toEqual({
            status: theirs.status,
            stdout: theirs.stdout,
          });
        }
      }
    },
  );
});

const IMAGES = `
qemu-img create -q -f qcow2 base.qcow2 3M
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
mkdir sub; qemu-img create -q -f qcow2 -b ../mid.qcow2 -F qcow2 sub/top.qcow2
qemu-img create -q -f qcow2 -u -b base.qcow2 -F qcow2 -o compat=0.10 old.qcow2 1G
qemu-img create -q -f qcow2 -u -b /none/base.qcow2 -F qcow2 absolute.qcow2 1536
qemu-img create -q -f qcow2 -u -b 'nbd://host/x' -F raw remote.qcow2 1T
qemu-img create -q -f qcow2 -o data_file=external.raw,data_file_raw=on data.qcow2 1M
qemu-img create -q -f qcow2 -o compression_type=zstd,extended_l2=on,lazy_refcounts=on,refcount_bits=1 all.qcow2 1234567
qemu-img create -q -f qcow2 named.qcow2 64k
qemu-img snapshot -c 'ünïcode and a very long name' named.qcow2
qemu-img snapshot -c second named.qcow2
qemu-img bitmap --add -g 64k named.qcow2 b0
qemu-img bitmap --add --disable named.qcow2 b1
qemu-img create -q -f qcow2 -u -b loop2.qcow2 -F qcow2 loop.qcow2 1M
qemu-img create -q -f qcow2 -u -b loop.qcow2 -F qcow2 loop2.qcow2 1M
qemu-img create -q -f qcow2 self.qcow2 1M; qemu-img rebase -u -b self.qcow2 -F qcow2 self.qcow2
truncate -s 1000 odd.raw
printf x > byte.raw
: > empty.raw
ln -s base.qcow2 link.qcow2
qemu-img create -q -f qcow2 ./with:colon.qcow2 1M
`;

describe("info prints and ends as qemu-img does", () => {
  qemu.test.each([
    "info base.qcow2",
    "info ./base.qcow2",
    "info --output=json FOLDER/sub/top.qcow2",
    "info --backing-chain sub/top.qcow2",
    "info --backing-chain --output=json sub/top.qcow2",
    "info --backing-chain --output json base.qcow2",
    "info --backing-chain absolute.qcow2",
    "info --backing-chain loop.qcow2",
    "info --backing-chain self.qcow2",
    "info old.qcow2",
    "info --output=json absolute.qcow2",
    "info remote.qcow2",
    "info --output=json remote.qcow2",
    "info data.qcow2",
    "info --output=json data.qcow2",
    "info --output=json --backing-chain data.qcow2",
    "info all.qcow2",
    "info --output=json all.qcow2",
    "info -f raw all.qcow2",
    "info --output=json byte.raw",
    "info odd.raw",
    "info empty.raw",
    "info link.qcow2",
    "info file:base.qcow2",
    "info ./with:colon.qcow2",
    "info -U base.qcow2",
    "info --image-opts driver=qcow2,file.filename=base.qcow2",
    "info --image-opts -U --output=json file.filename=sub/top.qcow2",
    "info --image-opts driver=raw,file.filename=base.qcow2",
    "info --output=json file:sub/top.qcow2",
    "info",
    "info base.qcow2 mid.qcow2",
    "info none.qcow2",
    "info --output=xml base.qcow2",
    "info -f foo base.qcow2",
    "info -f qcow2 odd.raw",
    "info -f qcow2 --backing-chain odd.raw",
    "info --unknown base.qcow2",
  ])("%s", async (line) => {
    const { qemu: theirs, ours } = await runOnImages(IMAGES, line.replace("FOLDER/", "").split(" "));
    expect(ours).toEqual(theirs);
  });

  qemu.test("also of snapshots whose names are of several bytes a letter, and of bitmaps", async () => {
    for (const form of ["human", "json"]) {
      const { qemu: theirs, ours } = await runOnImages(IMAGES, ["info", `--output=${form}`, "named.qcow2"]);
      expect(ours).toEqual(theirs);
      expect(ours.stdout).toContain(form === "human" ? "ünïcode and a very long name" : "\\u00FC");
    }
  });

  // Of `aes` there is nothing to write. A header of LUKS takes qemu-img two seconds, in which it measures its own speed.
  qemu.test.each([
    ["xts.qcow2", luksHeader("aes", "xts-plain64", 64)],
    ["cbc.qcow2", luksHeader("serpent", "cbc-essiv:sha256", 16)],
    ["aes.qcow2", undefined],
  ])("also of encrypted images, whose guest data imgtx does not read: %s", async (name, header) => {
    const folder = makeFolder();
    shell(folder, `qemu-img create -q -f qcow2 ${name} 1M`);
    encrypt(`${folder}/${name}`, header);
    for (const form of ["human", "json"]) {
      const words = ["info", `--output=${form}`, name];
      const theirs = runQemu(folder, words);
      expect(theirs.stdout).toContain("encrypted");
      expect(await runImg(folder, words)).toEqual(theirs);
    }
  });
});

const LUKS_AT = 0x50000;
const LUKS_PAYLOAD_SECTORS = 4040;

/** Says in the header of a new image that it is encrypted, by the header of LUKS, or by AES without any. */
function encrypt(path: string, luks: Uint8Array | undefined): void {
  const file = openSync(path, "r+");
  // The qcow2 specification: crypt_method, and the pointer to the full disk encryption header.
  writeSync(file, fromHex(luks ? "00000002" : "00000001"), 0, 4, 32);
  if (luks) {
    const extension = fromHex("0537be77 00000010 0000000000050000 0000000000200000 0000000000000000");
    writeSync(file, extension, 0, extension.length, 112);
    writeSync(file, luks, 0, luks.length, LUKS_AT);
    ftruncateSync(file, LUKS_AT + 0x200000);
  }
  closeSync(file);
}

/** LUKS 1, with one slot in use (LUKS On-Disk Format Specification, "PHDR layout"). */
function luksHeader(cipher: string, mode: string, keyBytes: number): Buffer {
  const header = Buffer.alloc(592);
  header.set(fromHex("4c554b53 babe 0001"));
  header.write(cipher, 8);
  header.write(mode, 40);
  header.write("sha256", 72);
  header.writeUInt32BE(LUKS_PAYLOAD_SECTORS, 104);
  header.writeUInt32BE(keyBytes, 108);
  header.fill(0xa5, 112, 164);
  header.writeUInt32BE(1234, 164);
  header.write("01234567-89ab-cdef-0123-456789abcdef", 168);
  for (let slot = 0; slot < 8; slot += 1) {
    const at = 208 + slot * 48;
    header.writeUInt32BE(slot === 0 ? 0x00ac71f3 : 0x0000dead, at);
    if (slot === 0) header.writeUInt32BE(5678, at + 4);
    header.writeUInt32BE(8 + slot * 504, at + 40);
    header.writeUInt32BE(4000, at + 44);
  }
  return header;
}
