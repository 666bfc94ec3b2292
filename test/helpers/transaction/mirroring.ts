// Short ways to mirror devices in tests, and qemu-img's judgement of what that made.

import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { expect } from "vitest";
import type { MirrorRequest, MirrorTarget, Outcome, RunOptions } from "../../../src/transaction/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { failureOf } from "../expect-error.ts";
import { snapshotWorkspace } from "../tree.ts";
import { type Call, killAt } from "../storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "./workbench.ts";

const PLAIN: Omit<MirrorTarget, "device" | "file"> = {
  format: undefined,
  sync: undefined,
  compressed: false,
  options: {},
  relative: false,
  reuse: false,
  bitmap: false,
  verify: false,
};

/** mirrorRequest(bench, { vda: "m.qcow2", vdb: undefined }): undefined is the mirror that the device has. */
export function mirrorRequest(
  bench: Workbench,
  files: Readonly<Record<string, string | undefined>>,
  how: Partial<MirrorTarget> = {},
): MirrorRequest {
  const targets = Object.entries(files).map(([device, file]) => ({
    ...PLAIN,
    ...how,
    device,
    file: file === undefined ? undefined : bench.at(file),
  }));
  return { kind: "mirror", targets };
}

export async function mirror(
  bench: Workbench,
  files: Readonly<Record<string, string | undefined>>,
  how: Partial<MirrorTarget> = {},
  options: Partial<RunOptions> = {},
): Promise<Outcome> {
  return await bench.run(mirrorRequest(bench, files, how), options);
}

/** That it is refused so, and that nothing changes. */
export async function expectRefused(
  bench: Workbench,
  files: Readonly<Record<string, string | undefined>>,
  expected: Readonly<Record<string, unknown>>,
  how: Partial<MirrorTarget> = {},
): Promise<void> {
  const before = snapshotWorkspace(bench.root);
  const failure = await failureOf(async () => await mirror(bench, files, how));
  expect(failure).toMatchObject({ changed: false, ...expected });
  expect(snapshotWorkspace(bench.root)).toEqual(before);
}

/** What qemu-img compare says of the device and its mirror, and check of the mirror. */
export async function judge(bench: Workbench, device: string): Promise<string> {
  const found = (await bench.devices()).find(({ name }) => name === device);
  if (!found?.mirror) throw new Error(`${device} has no mirror`);
  const { image, format } = found.mirror;
  const check = spawnSync("qemu-img", ["check", "-q", "-f", format, image], { encoding: "utf8" });
  if (format === "qcow2" && check.status !== 0) return `check ${check.status}: ${check.stderr}`;
  const compare = ["compare", "-f", found.format, "-F", format, found.image, image];
  const { stdout, stderr } = spawnSync("qemu-img", compare, { encoding: "utf8" });
  return `${stdout}${stderr}`.trim();
}

export const IDENTICAL = "Images are identical.";

/** qemu-img info's answer for one image, without its chain. */
export function infoOf(image: string): Readonly<Record<string, unknown>> {
  const answer = execFileSync("qemu-img", ["info", "--output=json", image], { encoding: "utf8" });
  return JSON.parse(answer) as Readonly<Record<string, unknown>>;
}

/** All persistent bitmaps of an image, as qemu-img lists them. */
export function listBitmaps(image: string): readonly { readonly name: string; readonly flags: string[] }[] {
  const { "format-specific": specific } = infoOf(image) as {
    "format-specific"?: { data: { bitmaps?: { name: string; flags: string[] }[] } };
  };
  return specific?.data.bitmaps ?? [];
}

/** Writes as a guest does: `qemu-io` commands. */
export function writeGuest(image: string, format: string, ...commands: string[]): void {
  execFileSync("qemu-io", ["-f", format, ...commands.flatMap((command) => ["-c", command]), image], {
    stdio: "ignore",
  });
}

/** All that tells whether a file was touched. */
export function stateOf(file: string): readonly unknown[] {
  const { ino, size, mtimeNs } = statSync(file, { bigint: true });
  return [ino, size, mtimeNs, createHash("sha256").update(readFileSync(file)).digest("hex")];
}

/** Files that are on their way, in the workspace's folder. */
export function stagingFiles(bench: Workbench): string[] {
  return readdirSync(bench.root).filter((name) => name.startsWith(".imgtx-"));
}

export function redoLogs(bench: Workbench): string[] {
  return readdirSync(bench.root).filter((name) => name.endsWith(".redo"));
}

/** A device whose mirror is behind. */
export async function makeBehind(options: object = {}): Promise<Workbench> {
  const bench = await makeWorkbench();
  await mirror(bench, { vdc: "m.qcow2" }, { options });
  writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 1 0 100k", "write -z 160k 8k");
  return bench;
}

/** The two images alone, whatever the table says of them. */
export function compareMirror(bench: Workbench): string {
  const images = [bench.at("c.qcow2"), bench.at("m.qcow2")];
  return execFileSync("qemu-img", ["compare", ...images], { encoding: "utf8" }).trim();
}

/** Whether it is the nth such call on files of that name after a commit mark. */
export function atNthAfterMark(name: string, file: string, nth: number): (call: Call) => boolean {
  let isMarked = false;
  let count = 0;
  return (call) => {
    if (call.purpose === "commit mark") isMarked = true;
    if (!isMarked || call.name !== name || !call.path.endsWith(file)) return false;
    count += 1;
    return count === nth;
  };
}

/** Brings it in sync in a process that dies at the call. */
export async function dieAmidCopy(bench: Workbench, name: string, nth: number): Promise<void> {
  const storage = killAt(makeNodeStorage(), atNthAfterMark(name, "m.qcow2", nth));
  await expect(mirror(bench.through(storage), { vdc: undefined })).rejects.toThrow("killed");
}
