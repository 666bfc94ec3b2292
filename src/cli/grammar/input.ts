// What the parser found on the command line, by the names of the definition.

import { ImgtxError } from "../../errors/index.ts";
import { parseSizeBytes } from "../../units/index.ts";
import { absoluteFilePath, absolutePath } from "./path.ts";

export type ParsedValue = string | boolean | readonly string[];

export class CommandInput {
  readonly #values: ReadonlyMap<string, ParsedValue>;
  readonly #cwd: string;
  /** Folders of `--allow-path` on this command line, absolute; without those of the environment. */
  readonly allowPaths: readonly string[];

  /** Values by an argument's name (`FILE`) or an option's flag (`--format`). */
  constructor(values: ReadonlyMap<string, ParsedValue>, cwd: string, allowPaths: readonly string[]) {
    this.#values = values;
    this.#cwd = cwd;
    this.allowPaths = allowPaths;
  }

  /** A required argument. The parser has made sure that it is there. */
  argument(name: string): string {
    const value = this.text(name);
    if (value === undefined) throw new Error(`the grammar let a missing ${name} pass`);
    return value;
  }

  text(name: string): string | undefined {
    const value = this.#values.get(name);
    return typeof value === "string" ? value : undefined;
  }

  texts(name: string): readonly string[] {
    const value = this.#values.get(name);
    return typeof value === "object" ? value : [];
  }

  flag(name: string): boolean {
    return this.#values.get(name) === true;
  }

  /** A required argument that names a file, made absolute. */
  path(name: string): string {
    return this.resolve(this.argument(name));
  }

  /** The absolute path of a file; E_NOT_A_FILE where the name can only be a folder's. */
  resolve(path: string): string {
    if (path === "") throw new ImgtxError("E_USAGE", "a file name is empty");
    return absoluteFilePath(this.#cwd, path);
  }

  resolveFolder(path: string): string {
    if (path === "") throw new ImgtxError("E_USAGE", "a folder's name is empty");
    return absolutePath(this.#cwd, path);
  }

  sizeBytes(name: string): number | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : readSizeBytes(name, text);
  }

  /** A whole number from least on. */
  count(name: string, least: number): number | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : readCount(name, text, least);
  }
}

export function readSizeBytes(what: string, text: string): number {
  const bytes = parseSizeBytes(text);
  if (bytes === undefined) {
    throw new ImgtxError("E_USAGE", `${what}: '${text}' is not a size`, {
      hint: "sizes are bytes, or have one of the suffixes k, M, G, T: 65536, 64k, 1.5G",
    });
  }
  return bytes;
}

export function readCount(what: string, text: string, least: number): number {
  const count = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(count >= least)) {
    throw new ImgtxError("E_USAGE", `${what}: '${text}' is not a whole number of at least ${least}`);
  }
  return count;
}
