// Images that are neither what they were nor what they were to be: a change of imgtx's was cut off amid them, and its
// journal has not ended it, or does not know them by this name.
//
// Invariants
// - Only the fence tells. It is up before the first byte changes, and goes with the last.
// - What is merged into is so where it is read by itself alone: the layer that is merged covers what comes into it.

import { ImgtxError } from "../../errors/index.ts";
import type { Chain } from "../chain/backing-chain.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { howToFindNames, shellQuote } from "../quote-name.ts";

/** E_TRANSACTION where what the chain shows is of two moments. */
export function assertNotHalfChanged({ links }: Pick<Chain, "links">): void {
  for (const { path, header } of links) {
    if (header?.changer !== undefined) throw isHalfChanged(path, header);
  }
  const [top] = links;
  if (top?.header?.merger !== undefined) throw isHalfMerged(top.path, top.header.merger);
}

export function isHalfChanged(
  image: string,
  { changer, isUnfinished }: Pick<Qcow2Header, "changer" | "isUnfinished">,
): ImgtxError {
  if (isUnfinished) {
    return new ImgtxError("E_TRANSACTION", `transaction ${changer} was to fill it, and it is not whole`, {
      image,
      hint: "`imgtx recover` in the workspace of that transaction goes on with it; else `imgtx mirror DEV FILE` of its device begins anew",
    });
  }
  const what = `transaction ${changer} was cut off amid changing it: it is half changed`;
  return new ImgtxError("E_TRANSACTION", what, {
    image,
    hint:
      "`imgtx recover` in the workspace of that transaction ends it, or `imgtx img check NAME` with the name that " +
      `it had then, where .imgtx-${changer}-0.redo lies (${howToFindNames(image)} lists its names). Where that is lost: ` +
      `\`imgtx unfreeze --force DEV\` for its device, and \`imgtx img check -r all ${shellQuote(image)}\``,
  });
}

function isHalfMerged(image: string, merger: string): ImgtxError {
  const what = `transaction ${merger} was cut off while it merged into it: by itself it shows a part of that`;
  return new ImgtxError("E_TRANSACTION", what, {
    image,
    hint:
      "what is merged shows what it did all the time; `imgtx recover` in the workspace of that transaction ends it, or " +
      "`imgtx img check NAME` with the name that it had then. Where that transaction is lost: `imgtx unfreeze --force DEV` for its device",
  });
}
