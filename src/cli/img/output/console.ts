// The outputs of a command of `imgtx img`: results on stdout, messages on stderr, each written at once, in
// qemu-img's order. Nothing is coloured and nothing wrapped: scripts read it.

import type { CliContext } from "../../context.ts";
import { printable } from "../../render/printable.ts";
import { drawFailure, type MessageForm } from "../grammar/messages.ts";
import { drawJson } from "../grammar/json.ts";

export class ImgConsole {
  readonly #context: Pick<CliContext, "stdout" | "stderr">;
  readonly #form: MessageForm;

  constructor(context: Pick<CliContext, "stdout" | "stderr">, form: MessageForm) {
    this.#context = context;
    this.#form = form;
  }

  /** Text for stdout as it is, line breaks included. Names in it go through printable before. */
  print(text: string): void {
    this.#context.stdout.write(text);
  }

  /** As `--output=json` of qemu-img has it. */
  printJson(value: unknown): void {
    this.#context.stdout.write(`${drawJson(value)}\n`);
  }

  /** A message after the program's name. */
  error(message: string): void {
    this.#context.stderr.write(`${this.#form.program}: ${printable(message)}\n`);
  }

  warning(message: string): void {
    this.error(`warning: ${message}`);
  }

  /** Prints an error; which status the command ends with is the command's to say. */
  failure(error: unknown): void {
    for (const line of drawFailure(error, this.#form)) this.#context.stderr.write(`${line}\n`);
  }
}
