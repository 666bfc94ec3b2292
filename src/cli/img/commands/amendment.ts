// What an amendment asks for, from the options of `-o`.

import type { AmendRequest } from "../../../transaction/index.ts";
import type { ListedOption } from "../../grammar/option-list.ts";
import { readAmendOptions } from "../grammar/create-options.ts";
import { failure } from "../grammar/messages.ts";

/** What a shell offers after -o. */
export const AMENDABLE = ["compat=", "lazy_refcounts=", "refcount_bits=", "size=", "data_file_raw=off"];

export type Wish = Omit<AmendRequest, "kind" | "devices">;

/** E_FAILED, in qemu-img's words, for an option that can't be amended or a value it can't have. */
export function readAmendment(listed: readonly ListedOption[]): Wish {
  const values = readAmendOptions(listed);
  if ([...values.keys()].some((name) => name.startsWith("encrypt."))) {
    throw failure("Can't amend encryption options - encryption not present");
  }
  const read = <T>(name: string, parse: (value: string) => T): T | undefined => {
    const value = values.get(name);
    return value === undefined ? undefined : parse(value);
  };
  return {
    amendment: {
      version: read("compat", readVersion),
      lazyRefcounts: read("lazy_refcounts", isOn),
      refcountOrder: read("refcount_bits", readOrder),
      dataFileName: values.get("data_file"),
      dataFileRaw: read("data_file_raw", isOn),
    },
    sizeBytes: read("size", Number),
    backingFileName: values.get("backing_file"),
    backingFormat: values.get("backing_fmt"),
  };
}

function isOn(value: string): boolean {
  return value === "on";
}

function readVersion(value: string): 2 | 3 {
  if (value === "0.10" || value === "v2") return 2;
  if (value === "1.1" || value === "v3") return 3;
  throw failure(`Unknown compatibility level ${value}`);
}

function readOrder(value: string): number {
  const order = Math.log2(Number(value));
  if (Number.isInteger(order) && order <= 6) return order;
  throw failure("Refcount width must be a power of two and may not exceed 64 bits");
}
