// The options of `-o` for new images, and those of them that can be amended: what `-o help` prints, and what qemu-img
// calls a wrong one.

import { ImgtxError } from "../../../errors/index.ts";
import type { CreateOptions, ImageFormat } from "../../../format/index.ts";
import { parseSizeBytes } from "../../../units/index.ts";
import { failure, LINE_BREAK } from "./messages.ts";
import { OLDEST, type QemuVersion } from "./qemu-version.ts";
import { isBeyondOurs, tooLargeForUs } from "./size.ts";
import type { ListedOption } from "../../grammar/option-list.ts";

interface CreateOption {
  readonly name: string;
  readonly type: "str" | "size" | "bool" | "num";
  readonly about: string;
  /** What holds where it is not given, for the line that create prints. */
  readonly default?: string;
  /** The first version that has it, for the help. */
  readonly since?: QemuVersion;
}

// In the order in which create prints them.
const QCOW2_OPTIONS: readonly CreateOption[] = [
  {
    name: "encryption",
    type: "bool",
    about: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  { name: "encrypt.format", type: "str", about: "Encrypt the image, format choices: 'aes', 'luks'" },
  { name: "cluster_size", type: "size", about: "qcow2 cluster size", default: "65536" },
  { name: "extended_l2", type: "bool", about: "Extended L2 tables", default: "off" },
  {
    name: "preallocation",
    type: "str",
    about: "Preallocation mode (allowed values: off, metadata, falloc, full)",
  },
  {
    name: "compression_type",
    type: "str",
    about: "Compression method used for image cluster compression",
    default: "zlib",
  },
  {
    name: "keep_data_file",
    type: "bool",
    about: "Assume the external data file already exists and do not overwrite it",
    since: 11,
  },
  { name: "size", type: "size", about: "Virtual disk size" },
  { name: "compat", type: "str", about: "Compatibility level (v2 [0.10] or v3 [1.1])" },
  { name: "backing_file", type: "str", about: "File name of a base image" },
  { name: "backing_fmt", type: "str", about: "Image format of the base image" },
  { name: "data_file", type: "str", about: "File name of an external data file" },
  {
    name: "data_file_raw",
    type: "bool",
    about: "The external data file must stay valid as a raw image",
  },
  {
    name: "encrypt.key-secret",
    type: "str",
    about: "ID of secret providing qcow AES key or LUKS passphrase",
  },
  { name: "encrypt.cipher-alg", type: "str", about: "Name of encryption cipher algorithm" },
  { name: "encrypt.cipher-mode", type: "str", about: "Name of encryption cipher mode" },
  { name: "encrypt.ivgen-alg", type: "str", about: "Name of IV generator algorithm" },
  { name: "encrypt.ivgen-hash-alg", type: "str", about: "Name of IV generator hash algorithm" },
  { name: "encrypt.hash-alg", type: "str", about: "Name of encryption hash algorithm" },
  { name: "encrypt.iter-time", type: "num", about: "Time to spend in PBKDF in milliseconds" },
  { name: "lazy_refcounts", type: "bool", about: "Postpone refcount updates", default: "off" },
  { name: "refcount_bits", type: "num", about: "Width of a reference count entry in bits", default: "16" },
];

const FILE_OPTIONS: readonly CreateOption[] = [
  { name: "nocow", type: "bool", about: "Turn off copy-on-write (valid only on btrfs)" },
  {
    name: "preallocation",
    type: "str",
    about: "Preallocation mode (allowed values: off, falloc, full)",
  },
  { name: "extent_size_hint", type: "size", about: "Extent size hint for the image file, 0 to disable" },
];

const RAW_OPTIONS: readonly CreateOption[] = [{ name: "size", type: "size", about: "Virtual disk size" }];

/** Also of the format's, and can be changed in an image that is there. */
const AMENDED = [
  "backing_file",
  "backing_fmt",
  "compat",
  "data_file",
  "data_file_raw",
  "encrypt.iter-time",
  "lazy_refcounts",
  "refcount_bits",
  "size",
];

const AMEND_OPTIONS: readonly CreateOption[] = [
  ...QCOW2_OPTIONS.filter(({ name }) => AMENDED.includes(name)),
  {
    name: "encrypt.state",
    type: "str",
    about: "Select new state of affected keyslots (active/inactive)",
  },
  { name: "encrypt.keyslot", type: "num", about: "Select a single keyslot to modify explicitly" },
  { name: "encrypt.old-secret", type: "str", about: "Select all keyslots that match this password" },
  {
    name: "encrypt.new-secret",
    type: "str",
    about: "New secret to set in the matching keyslots. Empty string to erase",
  },
];

/** Options of the format, and those of a file. Where both have one, the format's counts. */
function optionsOf(format: ImageFormat, withFile: boolean): readonly CreateOption[] {
  const own = format === "qcow2" ? QCOW2_OPTIONS : RAW_OPTIONS;
  const files = FILE_OPTIONS.filter(({ name }) => withFile && !own.some((option) => option.name === name));
  return [...own, ...files];
}

/** What `-o help` prints; those of a file only where one was named. */
export function drawOptionHelp(format: ImageFormat, withFile: boolean, qemuVersion: QemuVersion): string {
  const more = [
    "",
    "The protocol level may support further options.",
    "Specify the target filename to include those options.",
  ];
  return [
    withFile ? "Supported options:" : `Supported ${format} options:`,
    ...drawOptions(optionsOf(format, withFile).filter(({ since = OLDEST }) => since <= qemuVersion)),
    ...(withFile ? [] : more),
    "",
  ].join("\n");
}

/** What `amend -o help` prints. */
export function drawAmendHelp(): string {
  return ["Amend options for 'qcow2':", ...drawOptions(AMEND_OPTIONS), ""].join("\n");
}

function drawOptions(options: readonly CreateOption[]): string[] {
  return options
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, type, about }) => {
      const term = `  ${name}=<${type === "bool" ? "bool (on/off)" : type}>`;
      return `${term.padEnd(24)} - ${about}`;
    });
}

/** Values by name, as create prints them: sizes in bytes, switches as on and off. */
export type OptionValues = ReadonlyMap<string, string>;

/** E_FAILED, in qemu-img's words, for an option that the format does not have or a value it can't be. */
export function readCreateOptions(format: ImageFormat, listed: readonly ListedOption[]): OptionValues {
  return readValues(optionsOf(format, true), listed);
}

/** The same for what is to be amended. */
export function readAmendOptions(listed: readonly ListedOption[]): OptionValues {
  try {
    return readValues(AMEND_OPTIONS, listed);
  } catch (error) {
    if (!(error instanceof ImgtxError) || !isForCreation(listed)) throw error;
    throw error.reworded(`${error.message}${LINE_BREAK}This option is only supported for image creation`);
  }
}

function isForCreation(listed: readonly ListedOption[]): boolean {
  try {
    readValues(QCOW2_OPTIONS, listed);
    return true;
  } catch (error) {
    if (error instanceof ImgtxError) return false;
    throw error;
  }
}

function readValues(options: readonly CreateOption[], listed: readonly ListedOption[]): OptionValues {
  const values = new Map<string, string>();
  for (const { name, value } of listed) {
    const option = options.find((each) => each.name === name);
    const negated = option === undefined && value === undefined && name.startsWith("no");
    const known = negated ? options.find((each) => each.name === name.slice(2)) : option;
    if (known === undefined) throw failure(`Invalid parameter '${name}'`);
    values.set(known.name, readValue(known, value ?? (negated ? "off" : "on")));
  }
  return values;
}

function readValue({ name, type }: CreateOption, value: string): string {
  if (type === "bool") {
    if (value === "on" || value === "off") return value;
    throw failure(`Parameter '${name}' expects 'on' or 'off'`);
  }
  if (type === "num") {
    if (/^(0x[0-9a-f]+|\d+)$/i.test(value)) return String(Number(value));
    throw failure(`Parameter '${name}' expects a number`);
  }
  if (type === "size") {
    const bytes = parseSizeBytes(value);
    if (bytes !== undefined) return String(bytes);
    if (isBeyondOurs(value)) throw tooLargeForUs(name === "size" ? "image size" : name);
    throw failure(
      `Parameter '${name}' expects a non-negative number below 2^64${LINE_BREAK}` +
        `Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-${LINE_BREAK}` +
        "and exabytes, respectively.",
    );
  }
  return value;
}

/** `fmt=qcow2 cluster_size=65536 …` of the line that create prints. */
export function describeOptions(format: ImageFormat, values: OptionValues): string {
  const parts = optionsOf(format, true).flatMap((option) => {
    const value = values.get(option.name) ?? option.default;
    return value === undefined ? [] : [`${option.name}=${value}`];
  });
  return [`fmt=${format}`, ...parts].join(" ");
}

/** The same for the format layer. E_FAILED for encryption. */
export function toCreateOptions(values: OptionValues): CreateOptions {
  if (values.get("encryption") === "on" || [...values.keys()].some((name) => name.startsWith("encrypt."))) {
    throw failure("imgtx does not make encrypted images");
  }
  const number = (name: string): number | undefined => {
    const value = values.get(name);
    return value === undefined ? undefined : Number(value);
  };
  const flag = (name: string): boolean | undefined => {
    const value = values.get(name);
    return value === undefined ? undefined : value === "on";
  };
  return {
    clusterSizeBytes: number("cluster_size"),
    compat: values.get("compat"),
    lazyRefcounts: flag("lazy_refcounts"),
    refcountBits: number("refcount_bits"),
    preallocation: values.get("preallocation"),
    extendedL2: flag("extended_l2"),
    compressionType: values.get("compression_type"),
    dataFileName: values.get("data_file"),
    dataFileRaw: flag("data_file_raw"),
    keepDataFile: flag("keep_data_file"),
    backingFileName: values.get("backing_file"),
    backingFormat: values.get("backing_fmt"),
    noCow: flag("nocow"),
    extentSizeHintBytes: number("extent_size_hint"),
  };
}
