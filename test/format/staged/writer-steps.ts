// What imgtx does to images in place, as steps that can be made on any storage: twice the same gives the same bytes.

import { guestOffset, guestRange } from "../../../src/units/index.ts";
import { ImgtxError } from "../../../src/errors/index.ts";
import { openChain } from "../../../src/format/chain/backing-chain.ts";
import { openForWriting } from "../../../src/format/open/open-for-writing.ts";
import { type BitmapStep, changeBitmaps } from "../../../src/format/qcow2/change/bitmaps.ts";
import { resizeImage } from "../../../src/format/qcow2/change/resize-image.ts";
import {
  applySnapshot,
  createSnapshot,
  deleteSnapshot,
} from "../../../src/format/qcow2/change/internal-snapshots.ts";
import { readSnapshotTable } from "../../../src/format/qcow2/read/qcow2-snapshots.ts";
import type { Storage } from "../../../src/storage/index.ts";
import type { Random } from "../../helpers/random.ts";

export const PATH = "/disks/top.qcow2";
const GATE = { allowPaths: ["/"], currentFolder: "/disks" };

export interface GuestCall {
  readonly kind: "write" | "zero" | "unmap" | "discard" | "compress" | "flush";
  readonly start: number;
  readonly lengthBytes: number;
  readonly seed: number;
  /** The last cluster of the disk, which ends in it; where another size was refused it may be none. */
  readonly isTail: boolean;
}

export type Step =
  | { readonly kind: "guest"; readonly calls: readonly GuestCall[] }
  | { readonly kind: "resize"; readonly sizeBytes: number }
  | { readonly kind: "bitmap"; readonly step: BitmapStep }
  | SnapshotStep;

interface SnapshotStep {
  readonly kind: "snapshots";
  readonly how: "create" | "apply" | "delete";
  readonly name: string;
}

/** Of the disk as it will be by then. */
export function chooseSteps(random: Random, clusterBytes: number, sizeBytes: number): Step[] {
  let size = sizeBytes;
  let added = "b0";
  return Array.from({ length: 1 + random.below(4) }, (): Step => {
    switch (random.below(9)) {
      case 0:
        if (random.below(2) === 0) size = 512 * (1 + random.below(size / 512));
        else size += 512 * (1 + random.below(Math.max(1, (clusterBytes * 40) / 512)));
        return { kind: "resize", sizeBytes: size };
      case 1:
      case 2: {
        const kinds = ["add", "add", "clear", "remove", "disable", "enable", "merge"] as const;
        const kind = kinds[random.below(kinds.length)] ?? "add";
        const from = added;
        if (kind === "add" || kind === "merge") added = `b${random.below(3)}`;
        return { kind: "bitmap", step: { kind, name: added, from, marksEnd: true } };
      }
      case 3:
      case 4:
        return chooseSnapshotStep(random);
      default:
        return { kind: "guest", calls: chooseCalls(random, clusterBytes, size) };
    }
  });
}

function chooseSnapshotStep(random: Random): SnapshotStep {
  const how = (["create", "create", "apply", "delete"] as const)[random.below(4)] ?? "create";
  return { kind: "snapshots", how, name: `n${random.below(3)}`.repeat(1 + random.below(90)) };
}

const KINDS = ["write", "write", "write", "zero", "unmap", "discard", "compress", "flush"] as const;

export function chooseCalls(random: Random, clusterBytes: number, sizeBytes: number): GuestCall[] {
  return Array.from({ length: 1 + random.below(5) }, (): GuestCall => {
    const kind = KINDS[random.below(KINDS.length)] ?? "write";
    const unit = kind === "compress" || random.below(2) === 0 ? clusterBytes : 512;
    const start = Math.floor(random.below(sizeBytes) / unit) * unit;
    const most = kind === "compress" ? 1 : 1 + random.below(unit === 512 ? 40 : 5);
    const lengthBytes = Math.min(
      sizeBytes - start,
      kind === "compress" ? unit : Math.min(unit * most, 2 ** 18),
    );
    return { kind, start, lengthBytes, seed: random.below(250), isTail: lengthBytes % unit !== 0 };
  });
}

/** The code of the error that refused it; undefined where it was done. */
export async function makeStep(storage: Storage, step: Step): Promise<string | undefined> {
  try {
    await makeOrThrow(storage, step);
    return undefined;
  } catch (error) {
    if (error instanceof ImgtxError && error.code !== "E_INTERNAL") return error.code;
    throw error;
  }
}

async function makeOrThrow(storage: Storage, step: Step): Promise<void> {
  switch (step.kind) {
    case "guest":
      await writeGuest(storage, step.calls);
      return;
    case "resize":
      await resizeImage(storage, PATH, { format: "qcow2", gate: GATE }, step.sizeBytes);
      return;
    case "bitmap":
      await changeBitmap(storage, step.step);
      return;
    case "snapshots":
      await changeSnapshots(storage, step);
  }
}

async function writeGuest(storage: Storage, calls: readonly GuestCall[]): Promise<void> {
  const image = await openForWriting(storage, PATH, { format: "qcow2", gate: GATE });
  try {
    for (const { kind, start, lengthBytes, seed, isTail } of calls) {
      // A larger size may have been refused.
      const end = start + lengthBytes;
      if (end > image.virtualSizeBytes || (isTail && end !== image.virtualSizeBytes)) continue;
      const bytes = new Uint8Array(lengthBytes);
      for (let at = 0; at < lengthBytes; at += 512) bytes.fill(1 + ((at / 512 + seed) % 250), at, at + 512);
      if (kind === "write") await image.write(bytes, guestOffset(start));
      if (kind === "zero") await image.writeZeroes(guestRange(start, lengthBytes), false);
      if (kind === "unmap") await image.writeZeroes(guestRange(start, lengthBytes), true);
      if (kind === "discard") await image.discard(guestRange(start, lengthBytes));
      if (kind === "compress") await image.writeCompressed(bytes, guestOffset(start));
      if (kind === "flush") await image.flush("asked for");
    }
  } finally {
    await image.close();
  }
}

async function changeBitmap(storage: Storage, step: BitmapStep): Promise<void> {
  const chain = await openChain(storage, PATH, { format: "qcow2", gate: GATE, backing: false });
  try {
    const [link] = chain.links;
    if (link === undefined) throw new Error("a chain without an image");
    const file = await storage.openFile(PATH, "write");
    try {
      await changeBitmaps({ ...link, file }, [step]);
    } finally {
      await file.close();
    }
  } finally {
    await chain.close();
  }
}

/** Guest data stays but where it is gone back to a snapshot; bitmaps stay, or refuse that. */
async function changeSnapshots(storage: Storage, { how, name }: SnapshotStep): Promise<void> {
  const chain = await openChain(storage, PATH, { format: "qcow2", gate: GATE, backing: false });
  const file = await storage.openFile(PATH, "write");
  try {
    const [link] = chain.links;
    if (link === undefined) throw new Error("a chain without an image");
    if (how === "create") {
      await createSnapshot(link, file, { name, dateSec: 1_700_000_000, dateNsec: 5 });
      return;
    }
    const { entries } = await readSnapshotTable(link);
    const entry = entries.find((each) => each.name === name) ?? entries.at(-1);
    if (entry === undefined) return;
    if (how === "apply") await applySnapshot(link, file, entry);
    else await deleteSnapshot(link, file, entry);
  } finally {
    await Promise.all([chain.close(), file.close()]);
  }
}
