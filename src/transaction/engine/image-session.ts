// A session on one image that is in no workspace: what changes it is a transaction like any other, in a workspace of
// its own beside the image, which comes with the plan and goes with the journal.

import { ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  type Chain,
  findBeside,
  folderBeside,
  type GateOptions,
  howToFindNames,
  type ImageFormat,
  openChain,
  shellQuote,
} from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";
import { deviceEntryOf } from "../actions/plan/chain-entry.ts";
import { openBeside, settleBeside } from "../recover/beside.ts";
import type { RecoveryOptions } from "../recover/recovery.ts";
import type { RecoveryNote, Session } from "../requests/request.ts";

/** What the image is called as a device. */
export const IMAGE_DEVICE = "the-image";

interface ImageToChange {
  /** Its real path, or the block device as it is named. */
  readonly image: string;
  /** Of the lowest image that is changed, which the journal lies beside: whoever opens one above opens that as well. */
  readonly lowest: string;
  readonly format: ImageFormat;
  /** Whether it is opened by itself, whatever it stands on. */
  readonly isAlone: boolean;
  readonly gate: GateOptions & { readonly currentFolder: string };
  readonly safeWorkspaces: readonly string[];
}

/** Ends what was left of an earlier command first. What can't be ended yet, the image's next change meets. */
export async function openImageSession(
  storage: Storage,
  { image, lowest, format, isAlone, gate, safeWorkspaces }: ImageToChange,
  options: RecoveryOptions,
): Promise<Session> {
  const beside = { image: lowest, folder: folderBeside(lowest, await storage.stat(lowest)) };
  const { notes: recovered } = await settleBeside(storage, beside, { ...options, safeWorkspaces });
  const { currentFolder } = gate;
  const left = await openBeside(storage, beside, safeWorkspaces);
  if (left) return { workspace: left, root: left.root, currentFolder, recovered };
  const chain = await openChain(storage, image, {
    format,
    gate,
    backing: !isAlone,
    // What may not be done to it then, its action says.
    mayLackRefcounts: true,
  });
  return await whileOpen(chain, () => {
    assertOneName(chain, lowest);
    const first = deviceEntryOf(IMAGE_DEVICE, chain);
    return {
      workspace: { storage, root: beside.folder, first },
      root: beside.folder,
      currentFolder,
      recovered,
    };
  });
}

/**
 * E_REFUSED where an image that is changed has another name, and no fence tells who comes by that one of a change that
 * was cut off: what is left of it lies beside this one.
 */
function assertOneName({ links }: Chain, lowest: string): void {
  for (const [depth, { path, header, stat }] of links.entries()) {
    const isChanged = depth === 0 || path === lowest;
    const mayBeFenced = header !== undefined && header.version > 2;
    if (!isChanged || mayBeFenced || stat.names === 1) continue;
    const [own, temporary] = [shellQuote(path), shellQuote(`${path}.own`)];
    throw new ImgtxError(
      "E_REFUSED",
      `it has ${stat.names} names (hard links), and a change that is interrupted is known beside one alone`,
      {
        image: path,
        hint:
          `${howToFindNames(path)} lists them. As a device of a workspace it can be changed; or give this name a file ` +
          `of its own, while nobody uses it: \`cp -p --sparse=always ${own} ${temporary} && mv ${temporary} ${own}\``,
      },
    );
  }
}

/** Takes the workspace away where nothing is left in it to be done. The notes of what could not be ended. */
export async function closeImageSession(
  storage: Storage,
  { lowest }: Pick<ImageToChange, "lowest">,
  options: RecoveryOptions,
): Promise<readonly RecoveryNote[]> {
  const beside = await findBeside(storage, lowest);
  return beside ? (await settleBeside(storage, beside, options)).notes : [];
}
