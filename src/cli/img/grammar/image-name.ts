// Which image an operand means: a file's name, `file:NAME`, `json:{…}`, or under --image-opts a list of
// `driver=qcow2,file.filename=NAME` and the like.
//
// Invariant: only files of this machine. What would go over the network, or through another driver of QEMU,
// is refused by name before anything is opened.

import {
  composeBackingPath,
  OPTIONS_WITHOUT_EFFECT,
  readJsonOptions,
  stripFilePrefix,
} from "../../../format/index.ts";
import { parseSizeBytes, SECTOR_BYTES } from "../../../units/index.ts";
import { parseOptionList } from "../../grammar/option-list.ts";
import { drawJsonLine } from "./json.ts";
import { failure } from "./messages.ts";

export interface ImageName {
  /** The file's name, relative or not. */
  readonly file: string;
  /** As it was said; undefined to be recognised. */
  readonly format: string | undefined;
  /** What to take for the backing image instead of what the image names; null for none. */
  readonly backing: ImageName | null | undefined;
  /** As `-U`: others may write meanwhile. */
  readonly forceShare: boolean;
  /** Of a raw file the part that is the disk: from here on, up to its end where no length is said. */
  readonly part?: { readonly start: number; readonly lengthBytes: number | undefined };
  /** What QEMU calls it, where that is not the file's name. */
  readonly canonical?: string;
}

const PROTOCOL = /^([^/:]*):/;

/** E_FAILED where it means no file of this machine. */
export function parseImageName(operand: string, isOptions: boolean): ImageName {
  try {
    if (isOptions) return fromOptions(readOptions(operand), operand);
    if (operand.startsWith("json:")) return fromOptions(readJson(operand.slice(5)), operand);
  } catch (error) {
    throw error instanceof Refusal ? failure(`Could not open '${operand}': ${error.message}`) : error;
  }
  return { file: plainName(operand), format: undefined, backing: undefined, forceShare: false };
}

/** A file's name without QEMU's `file:` in front; where it would look like a protocol's then, with ./ there. */
export function plainName(name: string): string {
  const protocol = PROTOCOL.exec(name)?.[1];
  if (protocol === undefined) return name;
  const local = stripFilePrefix(name);
  if (local !== undefined) return local;
  throw failure(
    `Could not open '${name}': imgtx opens files only, not '${protocol}:' (for a file of that name say './${name}')`,
  );
}

/** Where a backing image of this name is, for a new image at path. E_FAILED for a protocol's name. */
export function backingPathOf(path: string, name: string, currentFolder: string): string {
  plainName(name);
  return composeBackingPath(path, name, currentFolder);
}

class Refusal extends Error {}

type Options = Map<string, string | null>;

function readOptions(list: string): Options {
  const options: Options = new Map();
  for (const { name, value } of parseOptionList(list)) {
    // A bare first word is the name of a node, of which a command has none.
    if (value === undefined) throw new Refusal(`Cannot find device='${name}' nor node-name='${name}'`);
    options.set(name, value);
  }
  return options;
}

function readJson(text: string): Options {
  const options = readJsonOptions(text);
  if ("why" in options) throw new Refusal(options.why);
  return options;
}

function fromOptions(given: Options, operand: string): ImageName {
  const options = new Map(given);
  const take = (name: string): string | undefined => {
    const value = options.get(name);
    options.delete(name);
    return value ?? undefined;
  };
  const driver = take("driver");
  // `driver=file,filename=x` names the protocol alone: the format is then QEMU's raw.
  if (driver === "file") return { ...fromOptions(nest(options), operand), format: driver };
  const part = driver === "raw" ? takePart(take) : undefined;
  const file = takeFile(take);
  const forceShare = isOn(take("force-share"));
  const backing = takeBacking(options, operand);
  for (const name of options.keys()) {
    if (!OPTIONS_WITHOUT_EFFECT.has(name.replace(/^file\./, ""))) throw unsupported(driver, name);
  }
  if (part === undefined) return { file, format: driver, backing, forceShare };
  const [offset, size] = [given.get("offset") ?? undefined, given.get("size") ?? undefined];
  const canonical = `json:${drawJsonLine({ driver, offset, size, file: { driver: "file", filename: file } })}`;
  return { file, format: driver, backing, forceShare, part, canonical };
}

function takePart(take: (name: string) => string | undefined): ImageName["part"] {
  const [offset, size] = ["offset", "size"].map((name) => {
    const text = take(name);
    const bytes = text === undefined ? undefined : parseSizeBytes(text);
    if (text !== undefined && bytes === undefined) {
      throw new Refusal(`Parameter '${name}' expects a non-negative number below 2^64`);
    }
    return bytes;
  });
  if (offset === undefined && size === undefined) return undefined;
  if ((size ?? 0) % SECTOR_BYTES !== 0) throw new Refusal("Specified size is not multiple of 512");
  return { start: offset ?? 0, lengthBytes: size };
}

/** E_FAILED where a name means a part of a file, for who works on whole ones. */
export function assertWhole({ part }: ImageName, operand: string): void {
  if (part === undefined) return;
  throw failure(
    `Could not open '${operand}': a part of a raw file (offset, size) can be read, mapped and converted only`,
  );
}

function takeFile(take: (name: string) => string | undefined): string {
  const driver = take("file.driver");
  if (driver !== undefined && driver !== "file") {
    throw new Refusal(`imgtx opens files only, and not through the driver '${driver}'`);
  }
  const name = take("file.filename") ?? take("filename") ?? take("file");
  if (name === undefined || name === "") throw new Refusal('A block device must be specified for "file"');
  return name;
}

function takeBacking(options: Options, operand: string): ImageName | null | undefined {
  if (options.has("backing")) {
    const value = options.get("backing") ?? "";
    options.delete("backing");
    if (value === "") return null;
    throw new Refusal(`Cannot find device='${value}' nor node-name='${value}'`);
  }
  const own = [...options].filter(([name]) => name.startsWith("backing."));
  if (own.length === 0) return undefined;
  for (const [name] of own) options.delete(name);
  return fromOptions(new Map(own.map(([name, value]) => [name.slice("backing.".length), value])), operand);
}

function nest(options: Options): Options {
  return new Map(
    [...options, ["driver", "raw"] as const].map(([name, value]) =>
      name === "filename" ? [`file.${name}`, value] : [name, value],
    ),
  );
}

function isOn(value: string | undefined): boolean {
  return value === "on" || value === "true";
}

function unsupported(driver: string | undefined, name: string): Refusal {
  return new Refusal(
    `Block ${driver === undefined ? "driver" : `format '${driver}'`} does not support the option '${name}'`,
  );
}
