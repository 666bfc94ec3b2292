// A closed generation as the history has it: its table, what the images looked like as it closed, and what the next one has
// that it has not. So the files can be read from both ends: back from the present table, or forward from a whole generation.
//
// Invariants
// - Most tables are told by what they have that the next one has not. A whole one comes now and then.
// - A difference is applied to nothing but the table that the file itself says comes next, or to its own.
// - What is told by another table's is as that table had it: what it came to know as it closed stays its own. An image that
//   its commit has changed in place is another one for the generation before.
// - Earlier versions wrote each generation as they wrote a table, with those looks in it: a whole one, that does not know the next.

import { ImgtxError } from "../../errors/index.ts";
import { isObject, isText, listOf, objectOf } from "./data-shape.ts";
import { filesOfEntry, type SeenFile, withLooks } from "./device-entry.ts";
import { type DeviceTable, decodeTable, loadTable, storeTable, type TableHead } from "./device-table.ts";
import { isFingerprint } from "./entry-shape.ts";
import { openSealed, sealJson } from "./sealed-json.ts";
import { fromStoredPath, toStoredPath } from "./stored-path.ts";
import {
  applyDifference,
  differ,
  loadDifference,
  storeDifference,
  type TableDifference,
} from "./table-difference.ts";

interface Closed {
  /** What images of each device looked like as it closed, where that was not as in the table. */
  readonly looks: readonly DeviceLooks[];
}

interface WholeGeneration extends Closed {
  readonly kind: "whole";
  readonly table: DeviceTable;
  /** What the next one has that it has not. */
  readonly next: TableDifference | undefined;
}

interface GenerationStep extends Closed {
  readonly kind: "step";
  /** What it has that the next one has not. */
  readonly back: TableDifference;
  readonly next: TableDifference;
}

export type StoredGeneration = WholeGeneration | GenerationStep;

interface DeviceLooks {
  readonly device: string;
  readonly images: readonly SeenFile[];
}

const KIND = "imgtx generation";
const VERSION = 1;

/** The closing table is the present one, but for what is known of its images. Both forms have the same objects in common. */
export function storedGenerations({
  present,
  closing,
  next,
}: {
  present: DeviceTable;
  closing: DeviceTable;
  next: DeviceTable;
}): { readonly whole: WholeGeneration; readonly step: () => GenerationStep } {
  const table = { ...closing, devices: present.devices };
  const known = { looks: looksOf(table, closing), next: differ(table, next) };
  return {
    whole: { kind: "whole", table, ...known },
    step: () => ({ kind: "step", back: differ(next, table), ...known }),
  };
}

/** The same file, of a generation of which more is known: its table stays. */
export function renewedGeneration(
  stored: StoredGeneration,
  table: DeviceTable,
  closing: DeviceTable,
): StoredGeneration {
  return { ...stored, looks: looksOf(table, closing) };
}

/** Of a file and what it is renewed to: whether that is what it says already. */
export function knowsTheSame(stored: StoredGeneration, renewed: StoredGeneration): boolean {
  return JSON.stringify(stored.looks) === JSON.stringify(renewed.looks);
}

function looksOf(table: DeviceTable, closing: DeviceTable): DeviceLooks[] {
  return closing.devices.flatMap((entry, index) => {
    const was = table.devices[index];
    if (was === entry) return [];
    const known = new Map(was?.chain.flatMap(filesOfEntry).map((file) => [file.image, file.fingerprint]));
    const images = entry.chain
      .flatMap(filesOfEntry)
      .filter(({ image, fingerprint }) => JSON.stringify(known.get(image)) !== JSON.stringify(fingerprint))
      .map(({ image, fingerprint }) => ({ image, fingerprint }));
    return images.length === 0 ? [] : [{ device: entry.name, images }];
  });
}

/** The generation as it closed. */
export function withClosingLooks(table: DeviceTable, { looks }: StoredGeneration): DeviceTable {
  const known = new Map(
    looks.map(({ device, images }) => [
      device,
      new Map(images.map(({ image, fingerprint }) => [image, fingerprint])),
    ]),
  );
  const devices = table.devices.map((entry) => withLooks(entry, known.get(entry.name)));
  return { ...table, devices };
}

export function headOf(stored: StoredGeneration): TableHead {
  return stored.kind === "whole" ? stored.table : stored.back.head;
}

/** next: what encodeNext makes of it, where that is known. */
export function encodeGeneration(
  root: string,
  stored: StoredGeneration,
  next = encodeNext(root, stored),
): Uint8Array {
  const looks = mapLooks(stored.looks, (path) => toStoredPath(root, path));
  const own =
    stored.kind === "whole"
      ? `"table":${JSON.stringify(storeTable(root, stored.table, null))}`
      : `"back":${JSON.stringify(storeDifference(root, stored.back))}`;
  const head = JSON.stringify({ kind: KIND, version: VERSION }).slice(0, -1);
  return sealJson("generation", `${head},${own},"looks":${JSON.stringify(looks)}${next}}`);
}

/** The same in a step and in a whole one. */
export function encodeNext(root: string, { next }: StoredGeneration): string {
  return next ? `,"next":${JSON.stringify(storeDifference(root, next))}` : "";
}

/** The inverse. E_CORRUPT where checksum, shape or number do not hold. */
export function decodeGeneration(
  root: string,
  bytes: Uint8Array,
  file: string,
  generation: number,
): StoredGeneration {
  const stored = decode(root, bytes, file);
  if (headOf(stored).generation === generation) return stored;
  throw damaged(file, "it is another generation's");
}

function decode(root: string, bytes: Uint8Array, file: string): StoredGeneration {
  const parsed = openSealed("generation", "a generation", bytes);
  if (typeof parsed === "string") {
    return { kind: "whole", table: decodeTable(root, bytes, file).table, looks: [], next: undefined };
  }
  const { kind, version, table, looks: stored, ...parts } = parsed;
  if (kind !== KIND) throw damaged(file, "it holds something else");
  if (version !== VERSION) {
    throw new ImgtxError("E_UNSUPPORTED", `the generation's file has version ${String(version)}`, {
      image: file,
      hint: "use the imgtx that wrote it, or a newer one",
    });
  }
  const next = loadDifference(root, parts["next"]);
  if (!isLooks(stored)) throw damaged(file, MISSING);
  const looks = mapLooks(stored, (path) => fromStoredPath(root, path));
  if (isObject(table) && (next || parts["next"] === undefined)) {
    return { kind: "whole", table: loadTable(root, table, file).table, looks, next };
  }
  const back = loadDifference(root, parts["back"]);
  if (back && next) return { kind: "step", back, looks, next };
  throw damaged(file, MISSING);
}

const MISSING = "a field of it is missing or of another kind";

const isLooks = listOf(
  objectOf<DeviceLooks>({
    device: isText,
    images: listOf(objectOf<SeenFile>({ image: isText, fingerprint: isFingerprint })),
  }),
);

function mapLooks(looks: readonly DeviceLooks[], map: (path: string) => string): readonly DeviceLooks[] {
  return looks.map(({ device, images }) => ({
    device,
    images: images.map(({ image, fingerprint }) => ({ image: map(image), fingerprint })),
  }));
}

/** Its table, from the next one. Undefined where that is another one than it was closed by. */
export function stepBack(stored: StoredGeneration, next: DeviceTable): DeviceTable | undefined {
  if (stored.kind === "whole") return stored.table;
  return isOf(next, stored.next.head) ? applied(next, stored.back) : undefined;
}

/** The next table from its own, with what was known of that when it was made. */
export function stepOn(stored: StoredGeneration, table: DeviceTable): DeviceTable | undefined {
  return stored.next && isTableOf(stored, table) ? applied(table, stored.next) : undefined;
}

/** Whether the table is the one that the file is of. */
export function isTableOf(stored: StoredGeneration, table: DeviceTable): boolean {
  return isOf(table, headOf(stored));
}

function applied(table: DeviceTable, difference: TableDifference): DeviceTable | undefined {
  const made = applyDifference(table, difference);
  return typeof made === "string" ? undefined : made;
}

/** Whether the table is of that generation, and not of one that had its number before a table was put back. */
function isOf(table: DeviceTable, head: TableHead): boolean {
  return (
    table.generation === head.generation &&
    table.transaction === head.transaction &&
    table.committed === head.committed
  );
}

function damaged(file: string, why: string): ImgtxError {
  return new ImgtxError("E_CORRUPT", `the generation can't be trusted: ${why}`, { image: file });
}
