import { describe, expect } from "vitest";
import { FIXTURES } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";
import {
  formatWords,
  HANGS_QEMU,
  runOnFixtures,
  runOnImages,
} from "../../../helpers/cli/fixtures-against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

describe("map of a fixture prints what qemu-img map does, or is refused", () => {
  const fixtures = FIXTURES.filter(({ name }) => !HANGS_QEMU.has(name));
  qemu.test.each(fixtures.map(({ name, format, refusal }) => ({ name, format, refusal })))(
    "$name",
    async ({ name, format, refusal }) => {
      const { qemu: theirs, ours } = await runOnFixtures([
        "map",
        ...formatWords(format),
        "--output=json",
        name,
      ]);
      const isDamaged = refusal !== null && refusal.when !== "write";
      if (isDamaged && ours.status !== 0) {
        // What can't be trusted is refused with a message; qemu-img goes on with much of it.
        expect(ours.stderr).toMatch(/^qemu-img: /);
        return;
      }
      // A name that qemu-img takes for a protocol's, as imgtx does in other words.
      if (name === "colon:base.raw") {
        expect(theirs.status).toBe(1);
        expect(ours).toMatchObject({ status: 1, stdout: "" });
        return;
      }
      // qemu-img opens no image whose bitmaps or snapshots are damaged; here they are not needed.
      if (isDamaged && theirs.status !== 0) return;
      if (name === "corrupt/backing-file-protocol.qcow2") {
        // Not there, seen from this folder; imgtx tells where it looked.
        expect(ours).toMatchObject({ status: theirs.status, stdout: theirs.stdout });
        expect(ours.stderr).toContain("/../base.raw': No such file or directory");
        return;
      }
      expect(ours).toEqual(theirs);
    },
  );
});

const IMAGES = `
truncate -s 4M base.raw
qemu-io -f raw -c 'write -P 1 0 1M' -c 'write -P 2 2000k 100k' base.raw > io
qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2 6M
qemu-io -c 'write -P 3 512k 1M' -c 'write -z 3M 256k' -c 'write -z -u 3500k 256k' -c 'write -c -P 4 5M 64k' mid.qcow2 > io
qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 -o cluster_size=4k top.qcow2 8M
qemu-io -c 'write -P 5 100k 10k' -c 'discard 1M 64k' -c 'write -z 5M 32k' top.qcow2 > io
qemu-img create -q -f qcow2 -o preallocation=metadata prealloc.qcow2 8M
qemu-io -c 'write -P 6 1M 300k' prealloc.qcow2 > io
qemu-img create -q -f qcow2 -b prealloc.qcow2 -F qcow2 -o extended_l2=on sub.qcow2
qemu-io -c 'write -P 7 2k 6k' -c 'write -z 20k 4k' -c 'write -P 8 1M 64k' sub.qcow2 > io
qemu-img create -q -f qcow2 -o data_file=external.raw data.qcow2 4M
qemu-io -c 'write -P 9 1M 128k' -c 'write -z 2M 64k' data.qcow2 > io
qemu-img create -q -f qcow2 -o preallocation=metadata,extended_l2=on,cluster_size=16k both.qcow2 1M
qemu-img create -q -f qcow2 -o cluster_size=512,compat=0.10 small.qcow2 1M
qemu-io -c 'write -P 1 10k 1k' -c 'write -P 2 600k 30k' small.qcow2 > io
qemu-img create -q -f qcow2 shrunk.qcow2 2M
qemu-img create -q -f qcow2 -b top.qcow2 -F qcow2 short.qcow2 1M
: > empty.raw
rm io
`;

describe("map prints and ends as qemu-img does", () => {
  const images = ["base.raw", "mid", "top", "prealloc", "sub", "data", "both", "small", "shrunk", "short"];
  qemu.test.each([
    ...images.flatMap((name) => {
      const file = name.includes(".") ? name : `${name}.qcow2`;
      return [`map ${file}`, `map --output=json ${file}`];
    }),
    "map --output=json empty.raw",
    "map empty.raw",
    "map --output=json --start-offset=300k --max-length 3M top.qcow2",
    "map -s 1 -l 4097 --output=json top.qcow2",
    "map --start-offset=100k --max-length=1 top.qcow2",
    "map --output=json --max-length=0 top.qcow2",
    "map --output=json --start-offset=8M top.qcow2",
    "map --output=json --start-offset=1G top.qcow2",
    "map --start-offset=1G top.qcow2",
    "map --start-offset=x top.qcow2",
    "map --max-length=-1 top.qcow2",
    "map -f raw top.qcow2",
    "map -U top.qcow2",
    "map --image-opts driver=qcow2,file.filename=top.qcow2",
    "map --image-opts --output=json driver=qcow2,file.filename=top.qcow2,backing.driver=raw,backing.file.filename=base.raw",
    "map",
    "map a b",
    "map none.qcow2",
  ])("%s", async (line) => {
    const { qemu: theirs, ours } = await runOnImages(IMAGES, line.split(" "));
    expect(ours).toEqual(theirs);
  });
});
