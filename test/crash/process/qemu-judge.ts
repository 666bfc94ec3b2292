// qemu-img as the judge of what a crash left: the images are clean, and what it reads of each device is what
// the tests' own reader reads.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { promisify } from "node:util";
import { guestDigest, openGuest, openHostImage } from "../../helpers/guest-content.ts";
import { BadState } from "../subject.ts";
import type { RealFolder } from "./real-folder.ts";

const execute = promisify(execFile);

interface Listed {
  readonly name: string;
  readonly image: string;
  readonly format: string;
  readonly chain: readonly { readonly image: string; readonly format: string }[];
}

/** Throws a BadState for a device that qemu-img does not read as it should. */
export async function judgeWithQemu(folder: RealFolder): Promise<void> {
  const answer = await folder.run(["device", "list", "--json"]);
  if (answer.exit !== 0) return;
  const { devices } = JSON.parse(answer.stdout) as { devices: Listed[] };
  for (const { name, image, format, chain } of devices) {
    for (const element of chain) {
      if (element.format === "qcow2") await qemuImg(name, ["check", "-q", "-f", "qcow2", element.image]);
    }
    const copy = `${folder.root}.raw`;
    await qemuImg(name, ["convert", "-f", format, "-O", "raw", image, copy]);
    const read = createHash("sha256").update(readFileSync(copy)).digest("hex");
    rmSync(copy);
    const wanted = guestDigest(openGuest((path) => openHostImage(path), image, format));
    if (read !== wanted) throw new BadState(`${name}: qemu-img reads ${read}, not ${wanted}`);
  }
}

async function qemuImg(device: string, args: readonly string[]): Promise<void> {
  try {
    await execute("qemu-img", args);
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    throw new BadState(`${device}: qemu-img ${args.join(" ")}: ${text}`);
  }
}
