// The options that say how a new overlay is laid out, in imgtx's words and in those of qemu-img's `-o`.

import { ImgtxError } from "../../errors/index.ts";
import type { OverlayOptions } from "../../format/index.ts";
import type { SnapshotRequest } from "../../transaction/index.ts";
import type { OptionDefinition } from "../grammar/definition.ts";
import { readCount, readSizeBytes, type CommandInput } from "../grammar/input.ts";
import { parseOptionList } from "../grammar/option-list.ts";

const REFCOUNT_BITS = ["1", "2", "4", "8", "16", "32", "64"];
const COMPATS = ["0.10", "1.1"];

export const OVERLAY_OPTIONS: readonly OptionDefinition[] = [
  {
    long: "relative",
    about:
      "store the backing file's name relative to the overlay's folder; the default where both lie beside each other or " +
      "in the workspace, on one file system",
  },
  { long: "absolute", about: "store it as an absolute path" },
  {
    long: "reuse",
    about: "take FILE if it already is an empty overlay on the active layer; it is checked, never wiped",
  },
  {
    long: "overwrite",
    about: "write over what is on FILE, a block device; one that begins with a MiB of zeros is taken without",
  },
  {
    long: "size",
    value: { name: "SIZE", completes: "nothing" },
    about:
      "of the volume that is made for it, where the device has a provisioner; else what a full disk takes",
  },
  {
    long: "cluster-size",
    value: { name: "SIZE", completes: ["512", "4k", "64k", "128k", "256k", "1M", "2M"] },
    about: "512 to 2M, a power of two; else as the image below",
  },
  {
    long: "refcount-bits",
    value: { name: "N", completes: REFCOUNT_BITS, choices: REFCOUNT_BITS },
    about: "width of a refcount; else as the image below",
  },
  { long: "extended-l2", about: "subclusters: allocate by a 32nd of a cluster" },
  {
    long: "compat",
    value: { name: "VERSION", completes: COMPATS, choices: COMPATS },
    about: "0.10 is version 2 of the format, 1.1 version 3; else as the image below",
  },
  {
    short: "o",
    value: {
      name: "KEY=VALUE,...",
      completes: ["cluster_size=", "refcount_bits=", "extended_l2=on", "compat="],
    },
    repeatable: true,
    about: "the same in qemu-img's words: cluster_size, refcount_bits, extended_l2, compat",
  },
  {
    long: "bitmap",
    value: { name: "NAME", completes: "nothing" },
    about: "start a persistent bitmap in each new active layer, which marks what is written from then on",
  },
];

/** What the snapshot is called, of which the overlay takes up what comes after. */
export const SNAPSHOT_OPTIONS: readonly OptionDefinition[] = [
  {
    long: "name",
    value: { name: "NAME", completes: "nothing" },
    about: "of the snapshot: other commands find it by that, and by its number",
  },
  {
    short: "m",
    long: "message",
    value: { name: "TEXT", completes: "nothing" },
    about: "a line on why it was taken",
  },
  {
    long: "with",
    value: { name: "FILE", completes: "file" },
    repeatable: true,
    about: "keep a small file of the machine too: its firmware variables, its definition",
  },
];

/** What SNAPSHOT_OPTIONS and OVERLAY_OPTIONS say, but for how many devices it holds. */
export function readSnapshotOptions(
  input: CommandInput,
): Omit<SnapshotRequest, "kind" | "targets" | "isOfAll"> {
  const files = input.texts("--with");
  const volumeBytes = input.sizeBytes("--size");
  return {
    name: input.text("--name"),
    message: input.text("--message"),
    relative: readRelative(input),
    reuse: input.flag("--reuse"),
    ...(input.flag("--overwrite") && { overwrite: true }),
    ...(volumeBytes !== undefined && { volumeBytes }),
    overlay: readOverlayOptions(input),
    bitmap: input.text("--bitmap"),
    ...(files.length > 0 && { withFiles: files.map((file) => input.resolve(file)) }),
  };
}

export function readRelative(input: CommandInput): boolean | undefined {
  const [isRelative, isAbsolute] = [input.flag("--relative"), input.flag("--absolute")];
  if (isRelative && isAbsolute) {
    throw new ImgtxError("E_USAGE", "--relative and --absolute contradict each other", {
      hint: "leave one of them out",
    });
  }
  return isRelative || isAbsolute ? isRelative : undefined;
}

/** The same for a JSON or a command line: plain data, or E_USAGE. */
function readOverlayOptions(input: CommandInput): OverlayOptions {
  const words = new Map<string, string>();
  for (const text of input.texts("-o")) {
    if (text === "") throw new ImgtxError("E_USAGE", "-o: the list of options is empty");
    for (const { name, value = "on" } of parseOptionList(text)) words.set(name, value);
  }
  for (const key of words.keys()) checkKey(key);
  const clusterSize = oneOf(input.text("--cluster-size"), "--cluster-size", words, "cluster_size");
  const refcountBits = oneOf(input.text("--refcount-bits"), "--refcount-bits", words, "refcount_bits");
  const compat = oneOf(input.text("--compat"), "--compat", words, "compat");
  const flag = input.flag("--extended-l2") ? "on" : undefined;
  const extendedL2 = oneOf(flag, "--extended-l2", words, "extended_l2");
  return {
    ...(clusterSize === undefined ? {} : { clusterSizeBytes: readClusterSize(clusterSize) }),
    ...(refcountBits === undefined ? {} : { refcountBits: readRefcountBits(refcountBits) }),
    ...(extendedL2 === undefined ? {} : { extendedL2: readSwitch(extendedL2) }),
    ...(compat === undefined ? {} : { compat: readCompat(compat) }),
  };
}

const KEYS = new Set(["cluster_size", "refcount_bits", "extended_l2", "compat"]);
const OTHER_KEYS_OF_QEMU_IMG = new Set([
  "backing_file",
  "backing_fmt",
  "compression_type",
  "data_file",
  "data_file_raw",
  "encryption",
  "lazy_refcounts",
  "nocow",
  "preallocation",
  "size",
]);

function checkKey(key: string): void {
  if (KEYS.has(key)) return;
  const hint = `imgtx knows ${[...KEYS].join(", ")}`;
  if (key.startsWith("backing_") || key === "size") {
    throw new ImgtxError("E_USAGE", `-o ${key}: a snapshot sets it by itself`, { hint });
  }
  if (OTHER_KEYS_OF_QEMU_IMG.has(key) || key.startsWith("encrypt.")) {
    throw new ImgtxError("E_UNSUPPORTED", `-o ${key} is not supported for a snapshot`, { hint });
  }
  throw new ImgtxError("E_USAGE", `-o: unknown key '${key}'`, { hint });
}

function oneOf(
  given: string | undefined,
  flag: string,
  words: ReadonlyMap<string, string>,
  key: string,
): string | undefined {
  const word = words.get(key);
  if (given !== undefined && word !== undefined) {
    throw new ImgtxError("E_USAGE", `${flag} and -o ${key} say the same thing: give one of them`);
  }
  return given ?? word;
}

function readClusterSize(text: string): number {
  const bytes = readSizeBytes("cluster size", text);
  if (bytes < 512 || bytes > 2 * 1024 * 1024 || !Number.isInteger(Math.log2(bytes))) {
    throw new ImgtxError("E_USAGE", `cluster size: '${text}' is not a power of two from 512 to 2M`);
  }
  return bytes;
}

function readRefcountBits(text: string): number {
  if (!REFCOUNT_BITS.includes(text)) {
    throw new ImgtxError("E_USAGE", `refcount bits: '${text}' is none of ${REFCOUNT_BITS.join(", ")}`);
  }
  return readCount("refcount bits", text, 1);
}

function readSwitch(text: string): boolean {
  if (text === "on") return true;
  if (text === "off") return false;
  throw new ImgtxError("E_USAGE", `-o extended_l2: '${text}' is neither on nor off`);
}

function readCompat(text: string): "0.10" | "1.1" {
  if (text === "0.10" || text === "v2") return "0.10";
  if (text === "1.1" || text === "v3") return "1.1";
  throw new ImgtxError("E_USAGE", `compat: '${text}' is neither 0.10 nor 1.1`);
}
