// The flags of convert: read in qemu-img's order, with what excludes what.

import type { SnapshotChoice } from "../../../format/index.ts";
import { type ListedOption, parseOptionList } from "../../grammar/option-list.ts";
import { failure, LINE_BREAK } from "../grammar/messages.ts";
import type { ImgInput } from "../grammar/input.ts";
import { asksForHelp, parseOptionLists } from "../grammar/option-list.ts";
import { readCount } from "../grammar/size.ts";
import { SECTOR_BYTES } from "../../../units/index.ts";

export interface ConvertFlags {
  /** Of -O; undefined where --target-image-opts says it. */
  readonly outputFormat: string | undefined;
  readonly listed: readonly ListedOption[];
  readonly asksForHelp: boolean;
  readonly compressed: boolean;
  readonly inKernel: boolean;
  readonly skipCreate: boolean;
  readonly targetIsZero: boolean;
  readonly targetImageOpts: boolean;
  readonly salvage: boolean;
  readonly bitmaps: boolean;
  readonly skipBrokenBitmaps: boolean;
  /** Of -S; undefined where it was not given. */
  readonly sparseBytes: number | undefined;
  readonly atOnce: number;
  readonly inOrder: boolean;
  readonly bytesPerSecond: number | undefined;
  readonly snapshot: SnapshotChoice | undefined;
  readonly cache: string;
  readonly sourceCache: string;
  readonly quiet: boolean;
}

const SPARSE_BYTES_MAX = 16 * 1024 * 1024;
const REQUESTS_MAX = 16;
const REQUESTS_DEFAULT = 8;

/** E_FAILED, in qemu-img's words, for values that can't be and flags that exclude each other. */
export function readConvertFlags(input: ImgInput): ConvertFlags {
  const lists = input.texts("-o");
  const listed = parseOptionLists(lists);
  const snapshot = readSnapshot(input.text("-l"));
  const sparseBytes = readSparse(input);
  const atOnce = readRequests(input);
  const bytesPerSecond = input.sizeBytes("-r", "rate limit");
  const targetImageOpts = input.flag("--target-image-opts");
  const flags: ConvertFlags = {
    outputFormat: input.text("-O") ?? (targetImageOpts ? undefined : "raw"),
    listed,
    asksForHelp: asksForHelp(listed),
    compressed: input.flag("-c"),
    inKernel: input.flag("-C"),
    skipCreate: input.flag("-n"),
    targetIsZero: input.flag("--target-is-zero"),
    targetImageOpts,
    salvage: input.flag("--salvage"),
    bitmaps: input.flag("--bitmaps"),
    skipBrokenBitmaps: input.flag("--skip-broken-bitmaps"),
    sparseBytes,
    atOnce,
    inOrder: !input.flag("-W"),
    bytesPerSecond: bytesPerSecond === 0 ? undefined : bytesPerSecond,
    snapshot,
    cache: input.text("-t") ?? "unsafe",
    sourceCache: input.text("-T") ?? "writeback",
    quiet: input.flag("-q"),
  };
  refuseCombinations(flags, lists.length > 0);
  return flags;
}

function refuseCombinations(flags: ConvertFlags, hasOptions: boolean): void {
  const refusals: readonly (readonly [boolean, string])[] = [
    [flags.skipBrokenBitmaps && !flags.bitmaps, "Use of --skip-broken-bitmaps requires --bitmaps"],
    [flags.compressed && flags.inKernel, "Cannot enable copy offloading when -c is used"],
    [flags.sparseBytes !== undefined && flags.inKernel, "Cannot enable copy offloading when -S is used"],
    [flags.inKernel && flags.salvage, "Cannot use copy offloading in salvaging mode"],
    [flags.targetImageOpts && !flags.skipCreate, "--target-image-opts requires use of -n flag"],
    [flags.skipCreate && hasOptions, "-o has no effect when skipping image creation"],
    [flags.targetIsZero && !flags.skipCreate, "--target-is-zero requires use of -n flag"],
  ];
  for (const [isRefused, message] of refusals) if (isRefused) throw failure(message);
}

function readSparse(input: ImgInput): number | undefined {
  const bytes = input.sizeBytes("-S", "buffer size for sparse output");
  if (bytes === undefined || (bytes % SECTOR_BYTES === 0 && bytes <= SPARSE_BYTES_MAX)) return bytes;
  throw failure(
    `Invalid buffer size for sparse output specified. Valid sizes are multiples of ${SECTOR_BYTES} up to ` +
      `${SPARSE_BYTES_MAX}. Select 0 to disable sparse detection (fully allocates output).`,
  );
}

function readRequests(input: ImgInput): number {
  const text = input.text("-m");
  if (text === undefined) return REQUESTS_DEFAULT;
  const words = `. Allowed number of coroutines is between 1 and ${REQUESTS_MAX}`;
  return readCount("number of coroutines", text, input.qemuVersion, { least: 1, most: REQUESTS_MAX, words });
}

/** `snapshot.id=…,snapshot.name=…`, or an id or name alone. */
export function readSnapshot(text: string | undefined): SnapshotChoice | undefined {
  if (text === undefined || !text.startsWith("snapshot.")) return text;
  const found: { id?: string; name?: string } = {};
  for (const { name, value } of parseOptionList(text)) {
    if ((name !== "snapshot.id" && name !== "snapshot.name") || value === undefined) {
      throw failure(`Invalid parameter '${name}'${LINE_BREAK}%: Failed in parsing snapshot param '${text}'`);
    }
    if (name === "snapshot.id") found.id = value;
    else found.name = value;
  }
  return found;
}
