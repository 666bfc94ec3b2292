// Names that images store in QEMU's own forms, `file:NAME` and `json:{…}`: those of local files are followed through the gate
// as qemu-img follows them; what else they mean is refused, truly.

import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runBoth, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const create = (name: string, backing: string, format: string): string =>
  `qemu-img create -q -f qcow2 -u -b '${backing}' ${format && `-F ${format}`} ${name} 2M`;
const inJson = (driver: string, file: string): string =>
  `json:{"driver":"${driver}","file":{"driver":"file","filename":"${file}"}}`;

const IMAGES = `
qemu-img create -q -f qcow2 base.qcow2 2M
qemu-io -f qcow2 -c 'write -P 3 0 1M' base.qcow2 > /dev/null
head -c 2097152 /dev/urandom > base.raw
${create("top.qcow2", inJson("qcow2", "base.qcow2"), "qcow2")}
${create("dotted.qcow2", 'json:{"driver":"raw","file.driver":"file","file.filename":"base.raw"}', "raw")}
${create("file.qcow2", "file:base.raw", "raw")}
qemu-io -f qcow2 -c 'write -P 5 64k 64k' top.qcow2 > /dev/null
`;

describe("a name that an image stores as JSON is followed as by qemu-img", () => {
  const images = ["top", "dotted", "file"];
  qemu.test.each([
    ...images.flatMap((name) => [`map ${name}.qcow2`, `check ${name}.qcow2`, `info ${name}.qcow2`]),
    "info --backing-chain top.qcow2",
    "info --backing-chain --output=json dotted.qcow2",
    "convert -O raw top.qcow2 out.raw",
    "compare dotted.qcow2 base.raw",
    "commit -q top.qcow2",
    "rebase -q -b base.raw -F raw top.qcow2",
  ])("%s", async (line) => {
    const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, line.split(" "));
    expect(ours).toEqual(theirs);
    const contents = [qemuFolder, ourFolder].map((folder) => {
      runQemu(folder, ["convert", "-O", "raw", "top.qcow2", "content"]);
      return readFileSync(`${folder}/content`);
    });
    expect(contents[0]!.equals(contents[1]!)).toBe(true);
  });
});

qemu.test(
  "raw images behind JSON are held to the folders of the gate, and overlays by such names are found",
  async () => {
    const [folder, elsewhere] = [makeFolder(), makeFolder()];
    shell(folder, IMAGES);
    writeFileSync(`${elsewhere}/secret.raw`, Buffer.alloc(2 ** 21, 1));
    shell(folder, create("out.qcow2", inJson("raw", `${elsewhere}/secret.raw`), "raw"));
    const refused = await runImg(folder, ["convert", "-O", "raw", "out.qcow2", "x"]);
    expect(refused).toMatchObject({ status: 1, stderr: expect.stringContaining("--allow-path") as string });
    const allowed = ["convert", "--allow-path", elsewhere, "-O", "raw", "out.qcow2", "x"];
    expect(await runImg(folder, allowed)).toMatchObject({ status: 0 });
    // Its overlay would lose what it shows.
    shell(folder, create("over.qcow2", inJson("qcow2", `${folder}/mid.qcow2`), "qcow2"));
    shell(folder, "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2");
    const shrink = await runImg(folder, ["resize", "--shrink", "mid.qcow2", "64k"], { program: "imgtx" });
    expect(shrink).toMatchObject({ status: 1, stderr: expect.stringContaining("over.qcow2") as string });
  },
);

const REFUSED: readonly (readonly [name: string, why: string])[] = [
  ['json:{"driver":"nbd","host":"localhost"}', "it leads through QEMU's driver 'nbd'"],
  ['json:{"driver":"qcow2","file":{"driver":"https","url":"x"}}', "it leads through QEMU's driver 'https'"],
  [
    'json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"base.raw"}}',
    "does not follow its option 'offset'",
  ],
  [
    'json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"base.qcow2"}}',
    "option 'backing'",
  ],
  ['json:{"driver":"file","filename":"base.raw"}', "it names a file, and no format over that"],
  ["json:nonsense", "Could not parse the JSON options"],
  ["nbd:localhost:1", "is a protocol name to QEMU, not a path"],
];

qemu.test("what else a stored name means is refused in true words", async () => {
  const folder = makeFolder();
  shell(folder, IMAGES);
  for (const [name, why] of REFUSED) {
    shell(folder, create("odd.qcow2", name, "raw"));
    const { status, stderr } = await runImg(folder, ["convert", "-O", "raw", "odd.qcow2", "x"]);
    expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining(why) as string });
  }
});

qemu.test("a data file's name is no protocol's, and one that looks so is refused, as by QEMU", async () => {
  const folder = makeFolder();
  const name = `${"d".repeat(60)}.raw`;
  shell(folder, `qemu-img create -q -f qcow2 -o data_file=${name} a.qcow2 2M`);
  for (const [prefix, ending] of [
    ["file:", ""],
    ['json:{"driver":"file","filename":"', '"}'],
  ] as const) {
    const bytes = readFileSync(`${folder}/a.qcow2`);
    const odd = `${prefix}${"d".repeat(name.length - prefix.length - ending.length)}${ending}`;
    bytes.write(odd, bytes.indexOf(name));
    writeFileSync(`${folder}/odd.qcow2`, bytes);
    writeFileSync(
      `${folder}/${odd.slice(prefix.length, name.length - ending.length)}`,
      Buffer.alloc(2 ** 21),
    );
    const words = ["convert", "-O", "raw", "odd.qcow2", "x"];
    expect(runQemu(folder, words).stderr).toContain("No such file");
    const { status, stderr } = await runImg(folder, words);
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: expect.stringContaining("of that very name") as string,
    });
  }
});
