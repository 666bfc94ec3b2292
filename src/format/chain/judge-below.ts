// Whether an image may be put on another chain: as opening it through that image will judge it.

import { ImgtxError } from "../../errors/index.ts";
import type { Storage } from "../../storage/index.ts";
import { identityOf } from "../fingerprint.ts";
import { type Chain, filesOf } from "./backing-chain.ts";
import { CHAIN_DEPTH_MAX, tooDeep } from "./chain-errors.ts";
import type { ChainLink } from "./chain-link.ts";
import { assertOwnersCanRead, type GateOptions, passGate } from "./open-gate.ts";

/**
 * E_REFUSED where the image, or its data file, is in that chain itself; E_LOOP where it would be too deep; E_OUTSIDE where
 * its owner has no right to what that chain holds, or nobody trusts where it leads to.
 */
export async function assertMayStandOn(
  storage: Storage,
  gate: GateOptions,
  image: ChainLink,
  below: Pick<Chain, "links">,
): Promise<void> {
  const own = new Set(await Promise.all(filesOf(image).map(async (file) => identityOf(await file.stat()))));
  if (below.links.length >= CHAIN_DEPTH_MAX) throw tooDeep(image.path);
  const owners = new Set([image.stat.ownerId]);
  let overlayPath = image.path;
  for (const link of below.links) {
    const files = [
      {
        what: link.stat.kind === "device" ? "backing image on a block device" : "raw backing image",
        path: link.path,
        stat: link.stat,
        isGated: link.format === "raw" || link.stat.kind === "device",
      },
      ...(link.dataFile
        ? [{ ...DATA_FILE, path: link.dataFile.path, stat: await link.dataFile.file.stat() }]
        : []),
    ] as const;
    for (const { what, path, stat, isGated } of files) {
      if (own.has(identityOf(stat))) throw isItself(image, below.links[0]?.path ?? path);
      await assertOwnersCanRead(storage, gate, { what, path, overlayPath }, owners);
      if (isGated) await passGate(storage, gate, { what, path, storedName: path, overlayPath });
    }
    owners.add(link.stat.ownerId);
    overlayPath = link.path;
  }
}

const DATA_FILE = { what: "external data file", isGated: true } as const;

function isItself({ path: image }: ChainLink, path: string): ImgtxError {
  const message =
    path === image
      ? "it can't stand on itself"
      : `it is in the chain of '${path}' already, and can't stand on that`;
  return new ImgtxError("E_REFUSED", message, { image, hint: "name an image that does not stand on it" });
}
