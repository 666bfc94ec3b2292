// One change in place by imgtx, and by qemu-img on copies: both have to come to the same.
//
// Invariant: where imgtx refuses what qemu-img does, the reason stands in REFUSED_BY_IMGTX, and no file is another one.

import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { openChain, readBitmapDirectory } from "../../src/format/index.ts";
import { findMarkedRanges } from "../../src/format/qcow2/read/qcow2-bitmaps.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";
import type { Random } from "../helpers/random.ts";
import type { Change } from "./differential-changes.ts";
import type { Printed, Tools } from "./differential-tools.ts";
import { findStructure } from "./image-structure.ts";

/** What qemu-img does, and imgtx refuses: its words, and why. */
const REFUSED_BY_IMGTX: readonly (readonly [RegExp, string])[] = [
  [/has internal snapshots, which would show another content/, "qemu-img changes what they show"],
  [/has the persistent bitmap .* which would be lost/, "the bitmap would not know of what is merged"],
  [
    /bitmap .* would be lost: version 2 has none/,
    "qemu-img leaves a bitmap in version 2, where nobody reads it",
  ],
  [/Cannot downgrade an image with incompatible/, "qemu-img forgets that data was compressed by zstd"],
  [/what it has past that would show/, "qemu-img has the end of a longer backing image show up"],
  [/stands on it.* and would (show another content|lose what it shows)/, "qemu-img spoils another overlay"],
  [
    /a v2 image can't hide what its backing image has/,
    "qemu-img does within the last cluster, which it writes zeros to",
  ],
];
/** What qemu-img refuses, and imgtx does. */
const REFUSED_BY_QEMU: readonly (readonly [RegExp, string])[] = [];

/** Whether it was done. */
export async function changeBoth(tools: Tools, change: Change, random: Random): Promise<boolean> {
  if (change.isRepair) return await repairBoth(tools, change, random);
  const twin = copyAll(tools.folder);
  const before = digests(tools.folder);
  const [theirs, ours] = [tools.qemu("qemu-img", change.words, twin), await changeByImgtx(tools, change)];
  const both = tellBoth(change, theirs, ours);
  const verb = change.device?.[0] ?? change.words[0];
  if (ours.status !== 0) {
    assertUntouched(tools.folder, before, both);
    if (theirs.status === 0 && !REFUSED_BY_IMGTX.some(([words]) => words.test(ours.stderr))) {
      throw new Error(`imgtx alone refuses ${both}`);
    }
    tools.changes.push(`${verb} refused by ${theirs.status === 0 ? "imgtx" : "both"}`);
    return false;
  }
  tools.changes.push(`${verb} done`);
  if (theirs.status !== 0) {
    if (REFUSED_BY_QEMU.some(([words]) => words.test(theirs.stderr))) return true;
    throw new Error(`qemu-img alone refuses ${both}`);
  }
  if (!change.device && theirs.stdout !== ours.stdout) throw new Error(`they say other things: ${both}`);
  for (const each of change.images) await compareImages(tools, twin, each, both, change.ignored);
  return true;
}

async function changeByImgtx(
  tools: Tools,
  { device, words, images: [image = ""] }: Change,
): Promise<Printed> {
  return device ? await tools.device(image, device) : await tools.imgtx(words);
}

function tellBoth({ words }: Change, theirs: Printed, ours: Printed): string {
  const told = (name: string, { status, stdout, stderr }: Printed) => `${name}: ${status} ${stdout}${stderr}`;
  return `${words.join(" ")}\n${told("qemu-img", theirs)}\n${told("imgtx", ours)}`;
}

/** A check that could not be completed, or a repair. */
const FAILED = 1;

/** With counts that are wrong. What neither sets right is put back. */
async function repairBoth(tools: Tools, change: Change, random: Random): Promise<boolean> {
  const [image = ""] = change.images;
  const path = `${tools.folder}/${image}`;
  const sound = readFileSync(path);
  const has = async (what: typeof snapshots) => (await what(tools, tools.folder, image, "qcow2")) !== "";
  // QEMU 7.2 loses the snapshots of an image that has bitmaps, even where nothing is to be repaired.
  const isHarmed = (await has(snapshots)) && (await has(bitmaps));
  damageCounts(path, random);
  const twin = copyAll(tools.folder);
  const before = digests(tools.folder);
  const [theirs, ours] = [tools.qemu("qemu-img", change.words, twin), await changeByImgtx(tools, change)];
  const both = tellBoth(change, theirs, ours);
  const isDone = change.device ? ours.status === 0 : ours.status !== FAILED;
  tools.changes.push(
    `${change.device ? "repair" : "check -r"} ${isDone ? "done" : `refused by ${theirs.status === FAILED ? "both" : "imgtx"}`}`,
  );
  if (!isDone) {
    assertUntouched(tools.folder, before, both);
    if (theirs.status !== FAILED) throw new Error(`imgtx alone refuses ${both}`);
    writeFileSync(path, sound);
    return false;
  }
  if (theirs.status !== FAILED && !isHarmed) {
    if (!change.device) assertSameWords(theirs, ours, both);
    await compareImages(tools, twin, image, both);
  }
  // Errors are left where leaks alone were to be set right.
  if (ours.status !== 0 || change.device)
    await tools.img("imgtx", ["check", "-q", "-r", "all", "-f", "qcow2", image]);
  await tools.img("qemu", ["check", "-q", "-f", "qcow2", image]);
  return true;
}

function assertSameWords(theirs: Printed, ours: Printed, both: string): void {
  if (theirs.status !== ours.status) throw new Error(`other statuses: ${both}`);
  const [one, other] = [theirs, ours].map(({ stdout }) => stdout.replace(/"image-end-offset": \d+/, ""));
  if (one !== other) throw new Error(`they say other things: ${both}`);
}

/** Files of the folder, in one of its own below it. */
function copyAll(folder: string): string {
  const twin = `${folder}/twins`;
  rmSync(twin, { recursive: true, force: true });
  const names = filesIn(folder);
  mkdirSync(twin);
  for (const name of names) copyFileSync(`${folder}/${name}`, `${twin}/${name}`);
  return twin;
}

function filesIn(folder: string): string[] {
  return readdirSync(folder).filter((name) => statSync(`${folder}/${name}`).isFile());
}

function digests(folder: string): Map<string, string> {
  const digest = (name: string) =>
    createHash("sha256")
      .update(readFileSync(`${folder}/${name}`))
      .digest("hex");
  return new Map(filesIn(folder).map((name) => [name, digest(name)]));
}

function assertUntouched(folder: string, before: ReadonlyMap<string, string>, told: string): void {
  const after = digests(folder);
  for (const name of new Set([...before.keys(), ...after.keys()])) {
    if (before.get(name) !== after.get(name)) throw new Error(`${name} was changed: ${told}`);
  }
}

async function compareImages(
  tools: Tools,
  twin: string,
  name: string,
  told: string,
  ignored: Change["ignored"] = { start: 0, end: 0 },
): Promise<void> {
  const format = name.endsWith(".raw") ? "raw" : "qcow2";
  // A commit of QEMU's marks whole steps of its copy, and imgtx's what is copied. What a rebase copies no guest sees change:
  // QEMU marks it all the same.
  const marks = /^(?:commit|rebase) /.test(told) ? [] : [bitmaps];
  for (const look of [content, properties, snapshots, ...marks]) {
    const [theirs, ours] = [
      await look(tools, twin, name, format, ignored),
      await look(tools, tools.folder, name, format, ignored),
    ];
    if (theirs !== ours) throw new Error(`${look.name} of ${name}: ${theirs} and ${ours}: ${told}`);
  }
  if (format === "raw") return;
  const check = (folder: string) =>
    tools.qemu("qemu-img", ["check", "-q", "-f", "qcow2", name], folder).status;
  const [theirs, ours] = [check(twin), check(tools.folder)];
  // QEMU may leak where imgtx does not.
  if (ours !== 0 && ours !== theirs) throw new Error(`check of ${name}: ${theirs} and ${ours}: ${told}`);
}

type Ignored = NonNullable<Change["ignored"]>;

async function content(
  tools: Tools,
  folder: string,
  name: string,
  format: string,
  { start, end }: Ignored,
): Promise<string> {
  const bytes = await tools.readByQemu(name, format, { folder });
  bytes.fill(0, Math.min(start, bytes.length), Math.min(end, bytes.length));
  return `${bytes.length} bytes, ${createHash("sha256").update(bytes).digest("hex")}`;
}

interface Info {
  readonly snapshots?: readonly { readonly id: string; readonly name: string }[];
}

async function readInfo(tools: Tools, folder: string, name: string, format: string): Promise<Info> {
  const { stdout, stderr } = tools.qemu("qemu-img", ["info", "--output=json", "-f", format, name], folder);
  if (stdout === "") throw new Error(`info of ${name}: ${stderr}`);
  return JSON.parse(stdout) as Info;
}

/** But for times, and for how long the file is, which newer versions tell, and how much of it is allocated. */
async function properties(tools: Tools, folder: string, name: string, format: string): Promise<string> {
  const varies = ["actual-size", "children", "date-sec", "date-nsec", "filename", "full-backing-filename"];
  return JSON.stringify(await readInfo(tools, folder, name, format), (key, value: unknown) =>
    varies.includes(key) ? undefined : value,
  );
}

async function snapshots(tools: Tools, folder: string, name: string, format: string): Promise<string> {
  const lines: string[] = [];
  for (const each of (await readInfo(tools, folder, name, format)).snapshots ?? []) {
    const bytes = await tools.readByQemu(name, format, { folder, snapshot: each.name });
    lines.push(`${each.name}: ${createHash("sha256").update(bytes).digest("hex")}`);
  }
  return lines.join("\n");
}

const storage = makeNodeStorage();

/** What each marks. */
async function bitmaps(_tools: Tools, folder: string, name: string, format: string): Promise<string> {
  if (format === "raw") return "";
  const gate = { workspaceRoot: folder, allowPaths: [], currentFolder: folder };
  const chain = await openChain(storage, `${folder}/${name}`, { format: "qcow2", gate, backing: false });
  try {
    const lines: string[] = [];
    const [link] = chain.links;
    for (const each of link ? await readBitmapDirectory(link) : []) {
      const ranges: string[] = [];
      if (link)
        for await (const { start, lengthBytes } of findMarkedRanges(link, each))
          ranges.push(`${start}+${lengthBytes}`);
      lines.push(`${each.name}: ${ranges.join(" ")}`);
    }
    return lines.join("\n");
  } finally {
    await chain.close();
  }
}

const DAMAGED_MAX = 4;

/** Other counts for a few clusters, as a power cut or a fault of a program leaves them. */
function damageCounts(path: string, random: Random): void {
  const image = readFileSync(path);
  const { clusterBits, regions } = findStructure(image);
  const order = image.readUInt32BE(4) === 2 ? 4 : image.readUInt32BE(96);
  const perBlock = 2 ** (clusterBits + 3 - order);
  const blocks = regions.filter(({ name }) => name === "refcount-block");
  const clusters = Math.ceil(image.length / 2 ** clusterBits);
  for (let left = random.below(DAMAGED_MAX + 1); left > 0; left -= 1) {
    const cluster = random.below(clusters);
    const block = blocks[Math.floor(cluster / perBlock)];
    if (block) writeCount(image, { block: block.offset, index: cluster % perBlock, order }, random.below(3));
  }
  writeFileSync(path, image);
}

function writeCount(
  image: Buffer,
  { block, index, order }: { readonly block: number; readonly index: number; readonly order: number },
  count: number,
): void {
  const bits = 2 ** order;
  const at = block + Math.floor((index * bits) / 8);
  if (bits >= 8) return void image.writeUIntBE(count, at + Math.max(0, bits / 8 - 4), Math.min(4, bits / 8));
  const shift = (index * bits) % 8;
  const mask = (2 ** bits - 1) << shift;
  image[at] = ((image[at] ?? 0) & ~mask) | ((count << shift) & mask);
}
