// imgtx amend DEV … -o OPTIONS

import { ImgtxError } from "../../errors/index.ts";
import type { AmendRequest } from "../../transaction/index.ts";
import type { ActionCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { readSizeBytes } from "../grammar/input.ts";
import { parseOptionList } from "../grammar/option-list.ts";

export const amend: ActionCommand = {
  kind: "action",
  standalone: false,
  createsWorkspace: false,
  definition: {
    arguments: [{ name: "DEV", about: "the devices", variadic: true, completes: "device" }],
    options: [
      {
        short: "o",
        value: {
          name: "KEY=VALUE,...",
          completes: ["compat=", "lazy_refcounts=", "refcount_bits=", "size=", "data_file_raw=off"],
        },
        repeatable: true,
        about:
          "in qemu-img's words: compat, lazy_refcounts, refcount_bits, size, data_file, data_file_raw, " +
          "backing_file, backing_fmt",
      },
    ],
    about:
      "Gives the active layers of devices other properties, as qemu-img amend does: version 2 or 3 of the format, the " +
      "width of refcounts, lazy refcounts, a larger size, another name of the data file. What the guest sees stays. " +
      "Refused is what would lose something: bitmaps in version 2, a smaller disk, another data file.",
    examples: [
      { command: "imgtx amend vda vdb -o compat=1.1", about: "from version 2 to 3, both or neither" },
      { command: "imgtx amend vda -o refcount_bits=64,lazy_refcounts=on", about: "several at once" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const words = input.texts("-o").flatMap((text) => parseOptionList(text));
    if (words.length === 0) {
      throw new ImgtxError("E_USAGE", "No options specified", { hint: "-o says what is to be amended" });
    }
    return { kind: "amend", devices: input.texts("DEV"), ...readAmendment(words) };
  },
};

type Wish = Omit<AmendRequest, "kind" | "devices">;
type Amendment = AmendRequest["amendment"];

const READERS: Readonly<Record<string, (value: string) => Partial<Wish> | { readonly with: Amendment }>> = {
  compat: (value) => ({ with: { version: readVersion(value) } }),
  lazy_refcounts: (value) => ({ with: { lazyRefcounts: readSwitch("lazy_refcounts", value) } }),
  refcount_bits: (value) => ({ with: { refcountOrder: readOrder(value) } }),
  data_file: (value) => ({ with: { dataFileName: value } }),
  data_file_raw: (value) => ({ with: { dataFileRaw: readSwitch("data_file_raw", value) } }),
  size: (value) => ({ sizeBytes: readSizeBytes("size", value) }),
  backing_file: (value) => ({ backingFileName: value }),
  backing_fmt: (value) => ({ backingFormat: value }),
};

/** What qemu-img takes for a new image alone. */
const FOR_CREATION = new Set([
  "cluster_size",
  "compression_type",
  "encryption",
  "extended_l2",
  "keep_data_file",
  "preallocation",
]);

function readAmendment(words: ReturnType<typeof parseOptionList>): Wish {
  let wish: Wish = { amendment: {} };
  for (const { name, value = "on" } of words) {
    const read = Object.hasOwn(READERS, name) ? READERS[name] : undefined;
    if (read === undefined) {
      throw new ImgtxError("E_USAGE", `Invalid parameter '${name}'`, {
        hint: FOR_CREATION.has(name)
          ? "This option is only supported for image creation"
          : `imgtx knows ${Object.keys(READERS).join(", ")}`,
      });
    }
    const said = read(value);
    wish =
      "with" in said ? { ...wish, amendment: { ...wish.amendment, ...said.with } } : { ...wish, ...said };
  }
  return wish;
}

function readVersion(value: string): 2 | 3 {
  if (value === "0.10" || value === "v2") return 2;
  if (value === "1.1" || value === "v3") return 3;
  throw new ImgtxError("E_USAGE", `Unknown compatibility level ${value}`);
}

function readSwitch(name: string, value: string): boolean {
  if (value === "on" || value === "off") return value === "on";
  throw new ImgtxError("E_USAGE", `Parameter '${name}' expects 'on' or 'off'`);
}

function readOrder(value: string): number {
  const order = Math.log2(Number(value));
  if (/^\d+$/.test(value) && Number.isInteger(order) && order <= 6) return order;
  throw new ImgtxError("E_USAGE", "Refcount width must be a power of two and may not exceed 64 bits");
}
