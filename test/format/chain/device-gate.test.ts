// The gate for names that lead to block devices, tried on loop devices.

import { mkdirSync, symlinkSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished } from "vitest";
import { rmSync } from "node:fs";
import { type GateOptions, openChain } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { attachLoop } from "../../helpers/loop-device.ts";
import { command } from "../../helpers/loop-disk.ts";
import { makeOverlay } from "../../helpers/make-image.ts";
import { oracle } from "../../helpers/oracles.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const loops = oracle("root", "loops", "qemu-img");
const SIZE_BYTES = 4 * 2 ** 20;

function makeVolume(root: string, name: string, format: "raw" | "qcow2"): string {
  const device = attachLoop(`${root}/${name}`, SIZE_BYTES);
  if (format === "qcow2") command("qemu-img", "create", "-q", "-f", format, device, "1M");
  return device;
}

async function open(image: string, gate: Partial<GateOptions>): Promise<string[]> {
  const chain = await openChain(makeNodeStorage(), image, {
    format: "qcow2",
    gate: { allowPaths: [], currentFolder: "/", ...gate },
  });
  await chain.close();
  return chain.links.map((link) => link.path);
}

loops.test.for(["raw", "qcow2"] as const)(
  "no image leads to a device that holds %s, wherever it lies",
  async (format) => {
    const root = makeFolder();
    const base = makeVolume(root, "base", format);
    const overlay = await makeOverlay(`${root}/top.qcow2`, base, format);
    symlinkSync(base, `${root}/link`);
    const linked = await makeOverlay(`${root}/linked.qcow2`, "link", format);
    const top = makeVolume(root, "top", "qcow2");
    command("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", format, top);
    // The last one names it, and lies beside it in /dev.
    for (const image of [overlay, linked, top]) {
      for (const allowPaths of [[], ["/"], ["/dev"], [root], ["/dev/shm"]]) {
        const gate = { allowPaths, allowsDevices: true, workspaceRoot: root };
        const error = await errorFrom(open(image, gate));
        expect(error).toMatchObject({ code: "E_OUTSIDE", image, field: "backing_file_name" });
        expect(error.hint).toContain("--allow-path");
      }
      expect(await open(image, { allowPaths: [base], allowsDevices: true })).toHaveLength(2);
    }
  },
);

loops.test("a folder of volumes is allowed as a whole, where nobody but root makes names in it", async () => {
  const root = makeFolder();
  const base = makeVolume(root, "base", "qcow2");
  const group = `/dev/${path.basename(root)}`;
  mkdirSync(group, { mode: 0o755 });
  onTestFinished(() => {
    rmSync(group, { recursive: true });
  });
  symlinkSync(base, `${group}/base`);
  const overlay = await makeOverlay(`${root}/top.qcow2`, `${group}/base`, "qcow2");
  expect((await errorFrom(open(overlay, {}))).message).toContain(`"${group}/base" is a block device`);
  expect(await open(overlay, { allowPaths: [group] })).toEqual([overlay, `${group}/base`]);
  command("chmod", "777", group);
  expect((await errorFrom(open(overlay, { allowPaths: [group] }))).code).toBe("E_OUTSIDE");
});

loops.test("an external data file on a device is held to the same", async () => {
  const root = makeFolder();
  const data = makeVolume(root, "data", "raw");
  const image = `${root}/top.qcow2`;
  command("qemu-img", "create", "-q", "-f", "qcow2", "-o", `data_file=${data}`, image, "1M");
  expect((await errorFrom(open(image, { allowsDevices: true }))).code).toBe("E_OUTSIDE");
  expect(await open(image, { allowPaths: [data] })).toEqual([image]);
});

loops.test("a device that somebody names is opened only where devices are allowed", async () => {
  const device = makeVolume(makeFolder(), "one", "qcow2");
  const error = await errorFrom(open(device, { allowPaths: [device] }));
  expect(error).toMatchObject({ code: "E_NOT_A_FILE", hint: expect.stringContaining("--allow-devices") });
  expect(await open(device, { allowsDevices: true })).toEqual([device]);
});
