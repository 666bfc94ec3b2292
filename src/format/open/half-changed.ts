// Images that are neither what they were nor what they were to be: a change of imgtx's was cut off amid them, and its
// journal has not ended it, or does not know them by this name.
//
// Invariants
// - Only the fence tells. It is up before the first byte changes, and goes with the last.
// - What is merged into is so where it is read by itself: the layers that are merged cover what comes into it. Of several
//   all are needed for that, and the fence says how many.

import { ImgtxError } from "../../errors/index.ts";
import type { Chain } from "../chain/backing-chain.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import type { Changer } from "../qcow2/codec/fence.ts";
import { howToFindNames, shellQuote } from "../quote-name.ts";

/** E_TRANSACTION where what the chain shows is of two moments. */
export function assertNotHalfChanged(
  { links }: Pick<Chain, "links">,
  { mayBeHalfCopied = false }: { readonly mayBeHalfCopied?: boolean | undefined } = {},
): void {
  for (const [above, { path, header }] of links.entries()) {
    if (header?.changer !== undefined) throw isHalfChanged(path, header);
    const merger = header?.merger;
    const isCovered = merger === undefined || above >= merger.layers;
    if (!isCovered && !mayBeHalfCopied) throw isHalfMerged(links, path, merger);
  }
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

function isHalfMerged(
  [top]: Chain["links"],
  into: string,
  { id, layers }: Pick<Changer, "id" | "layers">,
): ImgtxError {
  const [image, where] = top === undefined || top.path === into ? [into, "it"] : [top.path, `'${into}'`];
  const what = layers > 1 ? `merged ${layers} layers into ${where}` : `merged into ${where}`;
  const message = `transaction ${id} was cut off while it ${what}: by itself it shows a part of that`;
  return new ImgtxError("E_TRANSACTION", message, {
    image,
    hint:
      "what is merged, or mirrored, shows what it did all the time; `imgtx recover` in the workspace of that transaction ends it, or " +
      "`imgtx img check NAME` with the name that it had then. Where that transaction is lost: `imgtx unfreeze --force DEV` for its device",
  });
}
