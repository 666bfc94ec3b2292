// Errors for people: what, where, whether anything changed, and how to mend it.

import { ImgtxError } from "../../errors/index.ts";
import type { Canvas } from "./canvas.ts";
import { hintOf } from "./hint.ts";
import { fold, foldLabelled, wordsOf } from "./layout.ts";
import { printable } from "./printable.ts";

export function drawError(error: unknown, canvas: Canvas, verbose: boolean): string[] {
  return error instanceof ImgtxError ? drawForeseen(error, canvas, verbose) : drawBug(error, canvas, verbose);
}

function drawForeseen(error: ImgtxError, canvas: Canvas, verbose: boolean): string[] {
  const { paint } = canvas;
  const hint = hintOf(error);
  const message = printable(error.message);
  const device = error.device === undefined ? undefined : printable(error.device);
  const named = device === undefined || message.startsWith(`${device}: `) ? message : `${device}: ${message}`;
  const place = [
    error.image === undefined ? undefined : printable(error.image),
    error.offset === undefined ? undefined : `offset 0x${error.offset.toString(16)}`,
    error.field === undefined ? undefined : printable(error.field),
    error.line === undefined || message.startsWith(`line ${error.line}:`)
      ? undefined
      : `line ${error.line} of the batch`,
  ].filter((part) => part !== undefined);
  const paths = error.image === undefined ? [] : [printable(error.image)];
  const where = place.map((part, index) => (index < place.length - 1 ? `${part},` : part));
  return [
    ...foldLabelled(wordsOf(`error: ${named}`, paths), "error:", canvas, {
      spaces: 2,
      paintLabel: paint.red,
    }),
    ...(place.length === 0 ? [] : fold(["  at:", ...where], canvas, 4)),
    ...(verbose ? drawCauses(error) : []),
    ...drawChanged(error),
    ...(hint === undefined ? [] : drawHint(printable(hint), canvas)),
  ];
}

function drawHint(hint: string, canvas: Canvas): string[] {
  const how = { spaces: 4, paintLabel: canvas.paint.cyan };
  return foldLabelled(wordsOf(`  hint: ${hint}`), "hint:", canvas, how);
}

/** A usage error is found before anything is opened: there is nothing to say. */
function drawChanged(error: ImgtxError): string[] {
  if (error.code === "E_USAGE") return [];
  if (error.code === "E_UNFINISHED") {
    return ["  The change is committed and durable; the next imgtx command goes on with it."];
  }
  return [error.changed ? "  What was done before stays done." : "  No disk was changed."];
}

function drawCauses(error: Error): string[] {
  const lines: string[] = [];
  for (let cause = error.cause; cause instanceof Error && lines.length < 10; cause = cause.cause) {
    lines.push(`  cause: ${printable(cause.message)}`);
  }
  return lines;
}

function drawBug(error: unknown, { paint }: Canvas, verbose: boolean): string[] {
  const message = printable(error instanceof Error ? error.message : String(error));
  const stack = error instanceof Error && error.stack !== undefined ? error.stack.split("\n") : [];
  return [
    `${paint.red("error:")} this is a bug in imgtx: ${message}`,
    ...(verbose ? stack.map((line) => `  ${printable(line)}`) : []),
    "  The next imgtx command finishes or undoes what was begun.",
    `  ${paint.cyan("hint:")} please report it${verbose ? "" : ", with what --verbose prints"}`,
  ];
}
