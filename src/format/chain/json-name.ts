// Names of images in QEMU's JSON (`json:{…}`), as programs that use libvirt's names store them: as options, and, where
// those mean a file of this machine, that file.
//
// Invariant: only what is understood to the last option is followed. QEMU opens the chain when imgtx is done, and an option
// that imgtx passed by could lead it elsewhere.

import type { ImageFormat } from "../image-format.ts";

/** Options of QEMU's block layer that change how fast or how safely QEMU reads, and nothing that is read. */
export const OPTIONS_WITHOUT_EFFECT: ReadonlySet<string> = new Set([
  "node-name",
  "read-only",
  "auto-read-only",
  "discard",
  "detect-zeroes",
  "cache.direct",
  "cache.no-flush",
  "cache.writeback",
  "locking",
  "aio",
  "aio-max-batch",
  "drop-cache",
  "x-check-cache-dropped",
  "pr-manager",
  "lazy-refcounts",
  "pass-discard-request",
  "pass-discard-snapshot",
  "pass-discard-other",
  "discard-no-unref",
  "overlap-check",
  "overlap-check.template",
  "cache-size",
  "l2-cache-size",
  "l2-cache-entry-size",
  "refcount-cache-size",
  "cache-clean-interval",
]);

export const JSON_PREFIX = "json:";

/** Nested ones with a dot between; null for QEMU's null. In QEMU's words: what is wrong with the text. */
export function readJsonOptions(text: string): Map<string, string | null> | { readonly why: string } {
  let tree: unknown;
  try {
    tree = JSON.parse(text);
  } catch {
    return { why: "Could not parse the JSON options" };
  }
  if (typeof tree !== "object" || tree === null || Array.isArray(tree)) {
    return { why: "Invalid JSON object given" };
  }
  const options = new Map<string, string | null>();
  flatten(tree, "", options);
  return options;
}

function flatten(tree: object, prefix: string, into: Map<string, string | null>): void {
  for (const [name, value] of Object.entries(tree) as [string, unknown][]) {
    const key = `${prefix}${name}`;
    if (typeof value === "object" && value !== null) flatten(value, `${key}.`, into);
    else if (value === null || typeof value === "string") into.set(key, value);
    else into.set(key, JSON.stringify(value));
  }
}

export interface JsonFile {
  /** Relative to the current folder, where it is. */
  readonly file: string;
  /** As it says; undefined where it does not. */
  readonly format: ImageFormat | undefined;
}

/** The file that a stored `json:{…}` means; why it means none that imgtx follows. */
export function readJsonFile(name: string): JsonFile | { readonly why: string } {
  const options = readJsonOptions(name.slice(JSON_PREFIX.length));
  if ("why" in options) return options;
  const take = (option: string): string | undefined => {
    const value = options.get(option) ?? undefined;
    options.delete(option);
    return value;
  };
  const driver = take("driver");
  // Where the overlay states a format, QEMU does not open it.
  if (driver === "file") return { why: "it names a file, and no format over that" };
  if (driver !== undefined && driver !== "qcow2" && driver !== "raw") {
    return { why: `it leads through QEMU's driver '${driver}'` };
  }
  const protocol = take("file.driver") ?? "file";
  if (protocol !== "file") return { why: `it leads through QEMU's driver '${protocol}'` };
  const file = take("file.filename");
  if (file === undefined || file === "") return { why: "it names no file" };
  for (const option of options.keys()) {
    if (!OPTIONS_WITHOUT_EFFECT.has(option.replace(/^file\./, ""))) {
      return { why: `imgtx does not follow its option '${option}'` };
    }
  }
  return { file, format: driver };
}
