// The command that makes and removes volumes on a simulated disk: what is in PATH there, and does it call by call, so that
// crashes fall in between. A volume is a device of zeros.

import { posix } from "node:path";
import type { ProgramEnd } from "../../../src/storage/index.ts";
import type { SimulatedProcess } from "./simulated-process.ts";

/** Where scenarios lay it. */
export const PROVISIONER = "/disks/provisioner";

/** What nothing of imgtx's may ask for is thrown, as a bug. */
export async function runProvisioner(
  process: SimulatedProcess,
  [program, verb = "", path = "", bytes = ""]: readonly string[],
  { IMGTX_TAG: tag }: Readonly<Record<string, string>>,
): Promise<ProgramEnd> {
  if (program !== PROVISIONER) throw new Error(`simulated disk: '${program}' was to be run`);
  const there = await process.stat(path);
  const sizeBytes = Number(bytes);
  if (!Number.isSafeInteger(sizeBytes) || (there && there.kind !== "device"))
    return { kind: "exited", status: 1, printed: `no volume: ${path}` };
  switch (verb) {
    case "create":
      if (!there) await process.makeVolume(path, sizeBytes);
      break;
    case "extend":
      if (!there) return { kind: "exited", status: 1, printed: "there is no such volume" };
      if (there.sizeBytes < sizeBytes) await extend(process, path, { from: there.sizeBytes, to: sizeBytes });
      break;
    case "activate":
      break;
    case "remove":
      if (there && tag !== undefined) await assertUnused(process, path);
      if (there) await process.dropVolume(path);
      break;
    default:
      throw new Error(`simulated disk: the provisioner was asked to '${verb}'`);
  }
  // Also what a call before this one did, which was cut off.
  await process.flushFolder(posix.dirname(path), `volume ${verb}d`);
  return { kind: "exited", status: 0, printed: "" };
}

const LEFT_BYTES = 65_536;

/** What comes to it has in it what its last user left there. */
async function extend(
  process: SimulatedProcess,
  path: string,
  { from, to }: { readonly from: number; readonly to: number },
): Promise<void> {
  await process.extendVolume(path, to);
  const file = await process.openFile(path, "write", { mayBeDevice: true });
  await file.write(new Uint8Array(Math.min(LEFT_BYTES, to - from)).fill(0xa5), from);
  await file.flush("volume extended");
  await file.close();
}

/** What a transaction takes back holds nothing. */
async function assertUnused(process: SimulatedProcess, path: string): Promise<void> {
  const file = await process.openFile(path, "read", { mayBeDevice: true });
  const bytes = new Uint8Array((await file.stat()).sizeBytes);
  await file.read(bytes, 0);
  await file.close();
  if (bytes.some((byte) => byte !== 0))
    throw new Error(`simulated disk: '${path}' was to go with what is on it`);
}
