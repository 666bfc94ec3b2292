// What was given on a command line of `imgtx img`, by the flags of the definition.

import { commaFrom11, failure, usageError } from "./messages.ts";
import type { ParsedWords } from "./getopt.ts";
import type { QemuVersion } from "./qemu-version.ts";
import { readSize, type SizeLimits } from "./size.ts";

export class ImgInput {
  readonly operands: readonly string[];
  readonly #words: ParsedWords;

  readonly #form: "human" | "json";
  readonly qemuVersion: QemuVersion;

  /** `form` is what holds where --output is not given. */
  constructor(words: ParsedWords, form: "human" | "json", qemuVersion: QemuVersion) {
    this.operands = words.operands;
    this.#words = words;
    this.#form = form;
    this.qemuVersion = qemuVersion;
  }

  /** The one image that the command is about. */
  soleImage(refuse: (text: string) => Error = usageError): string {
    const [name, ...others] = this.operands;
    if (name === undefined || others.length > 0) throw refuse("Expecting one image file name");
    return name;
  }

  /** `--image-opts`, or `-p` for an option without a long name. */
  flag(name: string): boolean {
    return this.#words.options.some(({ flag }) => flag === name);
  }

  /** The last value given. */
  text(name: string): string | undefined {
    return this.texts(name).at(-1);
  }

  /** The given ones among these options, in order, each as often as it was given. */
  inOrder(
    names: readonly string[],
  ): readonly { readonly flag: string; readonly value: string | undefined }[] {
    return this.#words.options.filter(({ flag }) => names.includes(flag));
  }

  /** Every value given, in order. */
  texts(name: string): readonly string[] {
    return this.#words.options.flatMap(({ flag, value }) =>
      flag === name && value !== undefined ? [value] : [],
    );
  }

  /** `what` is what qemu-img calls it in its complaint: "buffer size for sparse output". */
  sizeBytes(name: string, what: string, limits?: SizeLimits): number | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : readSize(what, text, this.qemuVersion, limits);
  }

  /** Of --output. */
  get form(): "human" | "json" {
    const text = this.text("--output");
    if (text === undefined) return this.#form;
    if (text === "human") return "human";
    if (text === "json") return "json";
    if (this.qemuVersion < 10) throw failure("--output must be used with human or json as argument.");
    throw usageError(`--output expects 'human' or 'json'${commaFrom11(this.qemuVersion)} not '${text}'`);
  }
}
