// The same read-only command on the same fixture, with qemu-img and with imgtx under its name.

import { unpackAllFixtures } from "../fixtures.ts";
import { afterFile } from "../temporary-folder.ts";
import { makeFolder, type Printed, runImg, runQemu, shell } from "./against-qemu.ts";

/** qemu-img opens the image as its own backing image, and again, until it has no memory left. */
export const HANGS_QEMU: ReadonlySet<string> = new Set(["corrupt/backing-self.qcow2"]);

let folder: Promise<string> | undefined;

/** All fixtures, unpacked once for a test file. */
export function fixtureFolder(): Promise<string> {
  folder ??= (async () => {
    const made = makeFolder();
    afterFile(() => (folder = undefined));
    await unpackAllFixtures(made);
    return made;
  })();
  return folder;
}

export async function runOnFixtures(
  words: readonly string[],
): Promise<{ qemu: Printed; ours: Printed; folder: string }> {
  const where = await fixtureFolder();
  // Trusted: qemu-img follows images anywhere.
  const env = { IMGTX_ALLOW_PATH: where };
  return { qemu: runQemu(where, words), ours: await runImg(where, words, { env }), folder: where };
}

/** `-f qcow2`, where the fixture is to be opened so. */
export function formatWords(format: string | null): string[] {
  return format === null ? [] : ["-f", format];
}

const prepared = new Map<string, string>();

/** A command that changes nothing, in one folder for all tests of a file that ask for the same images. */
export async function runOnImages(
  prepare: string,
  words: readonly string[],
): Promise<{ qemu: Printed; ours: Printed; folder: string }> {
  let where = prepared.get(prepare);
  if (where === undefined) {
    where = makeFolder();
    shell(where, prepare);
    prepared.set(prepare, where);
    afterFile(() => void prepared.delete(prepare));
  }
  return { qemu: runQemu(where, words), ours: await runImg(where, words), folder: where };
}
