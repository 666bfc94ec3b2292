import { describe, expect } from "vitest";
import { FIXTURES } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";
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

  qemu.test("also of encrypted images, whose guest data imgtx does not read", async () => {
    const secret = "--object secret,id=s0,data=abc";
    const luks = "-o encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10";
    // On a busy machine qemu-img may fail to measure its own speed.
    const prepare = `
again() { for try in 1 2 3 4 5 6 7 8; do "$@" && return; done; }
again qemu-img create -q -f qcow2 ${secret} ${luks} xts.qcow2 1M
again qemu-img create -q -f qcow2 ${secret} ${luks},encrypt.cipher-alg=serpent-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256 cbc.qcow2 1M
qemu-img create -q -f qcow2 ${secret} -o encryption=on,encrypt.key-secret=s0 aes.qcow2 1M`;
    for (const name of ["xts.qcow2", "cbc.qcow2", "aes.qcow2"]) {
      for (const form of ["human", "json"]) {
        const { qemu: theirs, ours } = await runOnImages(prepare, ["info", `--output=${form}`, name]);
        expect(ours).toEqual(theirs);
      }
    }
  });
});
