// amend: other properties of the active layers of devices, by the options of `qemu-img amend`.

import type { DeviceEntry } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  type Amendment,
  amendImage,
  type Chain,
  type ChainLink,
  compareImages,
  downgradeImage,
  identityOf,
  imageOf,
  judgeAmendment,
  judgeResize,
  passGate,
  shellQuote,
  makesNoSmaller,
} from "../../format/index.ts";
import type { Note } from "../notes/notes.ts";
import type { AmendRequest } from "../requests/request.ts";
import type { Action, Plan, PlanContext } from "./plan/action.ts";
import { chainEntriesOf } from "./plan/chain-entry.ts";
import { changeOf, planInPlace } from "./plan/in-place.ts";
import { planMirrorResizing, planResizing } from "./plan/resizing.ts";

type DataFile = NonNullable<ChainLink["dataFile"]>;

export const amend: Action<AmendRequest> = {
  saying: { noun: "amendment", done: "amended", planned: "would be amended" },
  async plan({ kind, devices, amendment, sizeBytes: wanted, ...backing }, context): Promise<Plan> {
    return await planInPlace(kind, devices, context, async (top, entry, chain) => {
      assertSameBacking(entry.name, top, backing);
      const moved = await openDataFile(entry, top, amendment.dataFileName, context);
      await judgeAmendment(top, amendment);
      const sizeBytes = wanted ?? top.virtualSizeBytes;
      const isResized = sizeBytes !== top.virtualSizeBytes;
      if (isResized) {
        if (moved?.reads.length) throw eachByItself();
        assertNotSmaller(entry.name, top, sizeBytes);
        await judgeResize({ links: [afterUpgrade(top, amendment), ...chain.links.slice(1)] }, sizeBytes);
      }
      const resizing = isResized ? planResizing(top, sizeBytes, context) : [];
      const twin = await planMirrorResizing(entry, top, sizeBytes, context);
      return {
        notes: [...(isResized ? [noteResized(top, sizeBytes)] : []), ...twin.notes],
        after: { virtualSizeBytes: sizeBytes, ...(moved && chainWith(chain, moved.dataFile)) },
        before: [...resizing.slice(0, -1), ...twin.redo],
        reads: [...twin.chains, ...(moved?.reads ?? [])],
        redo: changeOf(
          top,
          async (link, transaction) => {
            const { header } = link;
            if (header === undefined) throw new Error("the plan refuses raw images");
            await amendImage({ ...link, header }, amendment);
            await resizing.at(-1)?.write(link.file, transaction);
            if (amendment.version === 2 && header.version > 2) await downgradeImage({ ...link, header });
          },
          // Version 2 has no place for the fence that is up while content is copied.
          { precedesCopies: amendment.version !== 2 },
        ),
      };
    });
  },
};

/** What is copied already would not have the new size. */
function eachByItself(): ImgtxError {
  return new ImgtxError("E_REFUSED", "a copy for a data file, and another size, are two amendments", {
    field: "data_file",
    hint: "amend the size first; then make the copy",
  });
}

function chainWith({ links: [top, ...below] }: Chain, dataFile: DataFile): Pick<DeviceEntry, "chain"> {
  return { chain: chainEntriesOf({ links: top ? [{ ...top, dataFile }, ...below] : [] }) };
}

function noteResized(top: ChainLink, after: number): Note {
  return { code: "resized", before: top.virtualSizeBytes, after };
}

/** It comes before the size. */
function afterUpgrade({ header, ...top }: ChainLink, { version }: Amendment): ChainLink {
  return { ...top, header: header && version === 3 ? { ...header, version } : header };
}

function assertNotSmaller(device: string, { virtualSizeBytes }: ChainLink, sizeBytes: number): void {
  if (sizeBytes >= virtualSizeBytes) return;
  throw makesNoSmaller(
    "E_REFUSED",
    `\`imgtx resize ${device} ${sizeBytes} --shrink\` does, and looks at what would be cut off`,
  );
}

function assertSameBacking(
  device: string,
  { header }: ChainLink,
  { backingFileName, backingFormat }: Pick<AmendRequest, "backingFileName" | "backingFormat">,
): void {
  const isSame =
    (backingFileName === undefined || backingFileName === (header?.backingFileName ?? "")) &&
    (backingFormat === undefined || backingFormat === (header?.backingFormat ?? ""));
  if (isSame) return;
  throw new ImgtxError("E_UNSUPPORTED", "Cannot amend the backing file", {
    field: "backing_file_name",
    hint: `\`imgtx rebase ${device} --onto FILE\` gives it another one`,
  });
}

/**
 * The data file by its new name, which is QEMU's to find: relative to whatever folder it is in. Another file than now has to
 * be a copy of it; reads: what of that must not change before the commit. Undefined: it keeps its name.
 */
async function openDataFile(
  { name: device }: DeviceEntry,
  top: ChainLink,
  name: string | undefined,
  context: PlanContext,
): Promise<{ readonly dataFile: DataFile; readonly reads: Plan["chains"] } | undefined> {
  const { dataFile, path: overlayPath } = top;
  if (name === undefined || dataFile === undefined) return undefined;
  if (!name.startsWith("/")) {
    throw new ImgtxError("E_REFUSED", "QEMU would look for that data file in its current folder", {
      field: "data_file",
      hint: "give its absolute path",
    });
  }
  const { storage } = context;
  const target = { what: "external data file", path: name, storedName: name, overlayPath } as const;
  await passGate(storage, context.gateOf(device), target);
  const path = await context.canonicalPath(name, device);
  const [now, then] = [await dataFile.file.stat(), await storage.stat(path)];
  if (then && identityOf(then) === identityOf(now)) return { dataFile: { ...dataFile, path }, reads: [] };
  const chains = [];
  for (const file of [dataFile.path, path]) chains.push(await context.openChain(file, "raw", device));
  const [before, after] = chains.map((chain) => imageOf(chain));
  const [link] = chains[1]?.links ?? [];
  if (!before || !after || !link) throw new Error("a chain has at least its active layer");
  const compared = await compareImages(before, after, { strict: false });
  if (compared.kind !== "identical" || compared.sizesDiffer) {
    throw new ImgtxError(
      "E_REFUSED",
      `'${name}' is neither the file that has the disk's data, nor a copy of it`,
      {
        field: "data_file",
        hint: `nobody may write to the disk meanwhile: \`cp --sparse=always ${shellQuote(dataFile.path)} ${shellQuote(name)}\``,
      },
    );
  }
  const { file, stat, fingerprint } = link;
  return { dataFile: { path, file, stat, fingerprint }, reads: chains.map((chain) => ({ device, chain })) };
}
