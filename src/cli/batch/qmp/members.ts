// The members of one object, read by name and by type.
//
// Invariants
// - Nothing is left unread: `finish` refuses, by name, what nobody has asked for.
// - Every refusal begins with the place: `actions[2].data.format`.

import { ImgtxError, type ErrorDetails } from "../../../errors/index.ts";
import { absoluteFilePath } from "../../grammar/path.ts";
import { drawJson, isList, isObject, type JsonObject, type JsonValue } from "./json.ts";

export class Members {
  readonly place: string;
  readonly #members: JsonObject;
  readonly #unread: Set<string>;

  /** E_USAGE where the value is no object. */
  constructor(value: JsonValue | undefined, place: string) {
    if (!isObject(value)) throw misused(place, value === undefined ? "is missing" : "is not an object");
    this.place = place;
    this.#members = value;
    this.#unread = new Set(this.#members.keys());
  }

  at(name: string): string {
    return this.place === "" ? name : `${this.place}.${name}`;
  }

  has(name: string): boolean {
    return this.#members.has(name);
  }

  take(name: string): JsonValue | undefined {
    this.#unread.delete(name);
    return this.#members.get(name);
  }

  optionalText(name: string): string | undefined {
    const value = this.take(name);
    if (value === undefined || typeof value === "string") return value;
    throw misused(this.at(name), "is not a string");
  }

  text(name: string): string {
    return this.#required(name, this.optionalText(name));
  }

  /** A name of something: never empty. */
  name(name: string): string {
    const value = this.text(name);
    if (value === "") throw misused(this.at(name), "is empty");
    return value;
  }

  flag(name: string): boolean | undefined {
    const value = this.take(name);
    if (value === undefined || typeof value === "boolean") return value;
    throw misused(this.at(name), "is neither true nor false");
  }

  /** A whole number from zero on. */
  count(name: string): number | undefined {
    const value = this.take(name);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
    const isNumber = typeof value === "number" || typeof value === "bigint";
    throw misused(this.at(name), isNumber ? `can't be ${drawJson(value)}` : "is not a number");
  }

  choice<Word extends string>(name: string, words: readonly Word[]): Word | undefined {
    const value = this.optionalText(name);
    if (value === undefined) return undefined;
    const word = words.find((each) => each === value);
    if (word !== undefined) return word;
    throw misused(this.at(name), `'${value}' is none of ${words.join(", ")}`);
  }

  list(name: string): readonly JsonValue[] {
    const value = this.#required(name, this.take(name));
    if (isList(value)) return value;
    throw misused(this.at(name), "is not a list");
  }

  object(name: string): Members {
    return new Members(this.take(name), this.at(name));
  }

  /**
   * The absolute path of a file. E_UNSUPPORTED for what QEMU would take for a protocol (a colon before the
   * first slash): here it would quietly become a file of that name.
   */
  path(name: string, cwd: string): string {
    const value = this.name(name);
    if (/^[^/]*:/.test(value)) {
      throw refused(this.at(name), `'${value}' names a protocol, and imgtx works on files`, {
        hint: `a file whose name has a colon is written './${value}'`,
      });
    }
    try {
      return absoluteFilePath(cwd, value);
    } catch (error) {
      throw error instanceof ImgtxError ? error.reworded(`${this.at(name)}: ${error.message}`) : error;
    }
  }

  /** E_UNSUPPORTED, with the reason, where the member is there at all. */
  refuse(name: string, reason: string, hint?: string): void {
    if (!this.has(name)) return;
    this.#unread.delete(name);
    throw refused(this.at(name), reason, hint === undefined ? {} : { hint });
  }

  finish(): void {
    const [unknown] = this.#unread;
    if (unknown !== undefined) {
      throw refused(this.place === "" ? "the batch" : this.place, `member '${unknown}' is not supported`);
    }
  }

  #required<T>(name: string, value: T | undefined): T {
    if (value !== undefined) return value;
    throw misused(this.at(name), "is missing");
  }
}

/** For what no reader of the schema could mean. */
export function misused(place: string, what: string): ImgtxError {
  return new ImgtxError("E_USAGE", `${place}: ${what}`);
}

/** For what QEMU knows and imgtx does not carry out. */
export function refused(place: string, what: string, details: ErrorDetails = {}): ImgtxError {
  return new ImgtxError("E_UNSUPPORTED", `${place}: ${what}`, details);
}
