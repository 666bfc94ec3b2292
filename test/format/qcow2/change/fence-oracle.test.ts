// Who keeps away from a fenced image: QEMU's tools, for reading and for writing, and imgtx's own writers.

import { guestOffset } from "../../../../src/units/index.ts";
import { spawnSync } from "node:child_process";
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { openChain, openImage, planImageFence, planImageLift } from "../../../../src/format/index.ts";
import { openForWriting } from "../../../../src/format/open/open-for-writing.ts";
import { openTargetFile } from "../../../../src/format/new/target-file.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { unpackFixture } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { errorFrom } from "../../../helpers/expect-error.ts";

const OWNER = "7f3k2m9qa1";
const storage = makeNodeStorage();
const NO_WAIT = { waitMs: 0, onWait: () => undefined };
const qemu = oracle("qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon");

function gateFor(image: string) {
  const folder = path.dirname(image);
  return { workspaceRoot: folder, currentFolder: folder, allowPaths: [folder] };
}

async function patch(image: string, what: "fence" | "lift"): Promise<void> {
  const chain = await openChain(storage, image, { format: "qcow2", gate: gateFor(image), backing: false });
  const [link] = chain.links;
  if (link === undefined) throw new Error("a chain without an image");
  const bytes = what === "fence" ? await planImageFence(link, OWNER) : await planImageLift(link);
  await chain.close();
  if (bytes === undefined) throw new Error("an image without a place for a fence");
  const descriptor = openSync(image, "r+");
  writeSync(descriptor, bytes.after, 0, bytes.after.length, bytes.offset);
  closeSync(descriptor);
}

function runQemu(command: readonly string[], cwd: string): { status: number | null; text: string } {
  const [program = "", ...rest] = command;
  const { status, stdout, stderr } = spawnSync(program, rest, { cwd, encoding: "utf8", timeout: 600_000 });
  return { status, text: `${stdout}${stderr}` };
}

const ATTEMPTS: readonly (readonly [string, (image: string) => readonly string[]])[] = [
  ["qemu-img info", (image) => ["qemu-img", "info", "-U", image]],
  ["qemu-img check -r all", (image) => ["qemu-img", "check", "-r", "all", "-f", "qcow2", image]],
  [
    "qemu-img convert",
    (image) => ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, `${image}.copy`],
  ],
  ["qemu-img resize", (image) => ["qemu-img", "resize", "-f", "qcow2", image, "+1M"]],
  ["qemu-img snapshot", (image) => ["qemu-img", "snapshot", "-c", "s", image]],
  ["qemu-img rebase", (image) => ["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", image]],
  ["qemu-img amend", (image) => ["qemu-img", "amend", "-f", "qcow2", "-o", "lazy_refcounts=on", image]],
  ["qemu-io, reading", (image) => ["qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", image]],
  ["qemu-io, writing", (image) => ["qemu-io", "-f", "qcow2", "-c", "write 0 512", image]],
  ["qemu-nbd", (image) => ["qemu-nbd", "-k", `${image}.sock`, "-f", "qcow2", image]],
  ["qemu-nbd, read-only", (image) => ["qemu-nbd", "-r", "-k", `${image}.sock`, "-f", "qcow2", image]],
  [
    "qemu-storage-daemon",
    (image) => [
      "qemu-storage-daemon",
      "--blockdev",
      `driver=file,node-name=f,filename=${image}`,
      "--blockdev",
      "driver=qcow2,node-name=q,file=f",
    ],
  ],
];

const LAYOUTS = ["v3.qcow2", "over-qcow2.qcow2", "data-file.qcow2", "over-over.qcow2", "extended-l2.qcow2"];

describe.each(LAYOUTS.map((name) => [name] as const))("a fence on %s", (name) => {
  qemu.test("is named by every tool of QEMU, which leaves the image alone", async () => {
    const image = await unpackFixture(name, undefined);
    await patch(image, "fence");
    const fenced = readFileSync(image);
    for (const [tool, command] of ATTEMPTS) {
      const { status, text } = runQemu(command(image), path.dirname(image));
      expect(status, tool).not.toBe(0);
      expect(text, tool).toContain(`Unsupported qcow2 feature(s): frozen by imgtx ${OWNER}\n`);
      expect(readFileSync(image).equals(fenced), tool).toBe(true);
    }
    await patch(image, "lift");
    expect(runQemu(["qemu-img", "check", "-f", "qcow2", image], path.dirname(image))).toMatchObject({
      status: 0,
    });
  });

  qemu.test("keeps QEMU from every overlay above it", async () => {
    const image = await unpackFixture(name, undefined);
    const overlay = `${image}.over`;
    const create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, overlay];
    expect(runQemu(create, path.dirname(image))).toMatchObject({ status: 0 });
    await patch(image, "fence");
    const write = ["qemu-io", "-f", "qcow2", "-c", "write 0 512", overlay];
    const { status, text } = runQemu(write, path.dirname(image));
    expect(status).not.toBe(0);
    expect(text).toContain("frozen by imgtx");
  });
});

test("a fence without a name is refused by QEMU by its number", async () => {
  const image = await unpackFixture("v3.qcow2", undefined);
  const bytes = readFileSync(image);
  bytes[72] = 0x40;
  writeFileSync(image, bytes);
  if (qemu.skip) return;
  const read = ["qemu-io", "-f", "qcow2", "-c", "read 0 512", image];
  const { status, text } = runQemu(read, path.dirname(image));
  expect(status).not.toBe(0);
  expect(text).toContain("Unknown incompatible feature: 4000000000000000");
});

describe("a fenced image", () => {
  test("is read by imgtx, with all that it holds", async () => {
    const image = await unpackFixture("over-qcow2.qcow2", undefined);
    const read = async (): Promise<Buffer> => {
      const opened = await openImage(storage, image, { format: "qcow2", gate: gateFor(image) });
      const bytes = Buffer.alloc(64 * 1024);
      await opened.read(bytes, guestOffset(0));
      await opened.close();
      return bytes;
    };
    const before = await read();
    await patch(image, "fence");
    expect((await read()).equals(before)).toBe(true);
  });

  test.each(["qcow2", "raw"] as const)("is not written to as %s", async (format) => {
    const image = await unpackFixture("v3.qcow2", undefined);
    await patch(image, "fence");
    const error = await errorFrom(openForWriting(storage, image, { format, gate: gateFor(image) }));
    expect(error).toMatchObject({ code: "E_REFUSED", image });
    expect(error.message).toContain("frozen");
  });

  test("is no target for a new image, and stays as it is", async () => {
    const image = await unpackFixture("v3.qcow2", undefined);
    await patch(image, "fence");
    const before = readFileSync(image);
    const error = await errorFrom(openTargetFile(storage, image, { waiting: NO_WAIT, gate: {} }));
    expect(error.message).toBe(
      `Could not create '${image}': the image is frozen: nothing may be written to it`,
    );
    expect(readFileSync(image).equals(before)).toBe(true);
  });
});
