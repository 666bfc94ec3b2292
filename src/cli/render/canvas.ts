// How text may look on one output: colours, width, line characters. Decided once for each run.

import type { CliContext, Output } from "../context.ts";

export type ColorLevel = 0 | 1 | 2 | 3;

interface Paint {
  readonly bold: (text: string) => string;
  readonly dim: (text: string) => string;
  readonly red: (text: string) => string;
  readonly yellow: (text: string) => string;
  readonly green: (text: string) => string;
  readonly cyan: (text: string) => string;
}

export interface Canvas {
  readonly paint: Paint;
  /** Width of the terminal; undefined where the output is none, and lines may be of any length. */
  readonly columns: number | undefined;
  /** In front of an image that has others below it, and in front of the last; and what leads past to those others. */
  readonly branch: { readonly more: string; readonly last: string; readonly bar: string };
  /** Of images in a tree, by what they are. */
  readonly marks: Readonly<Record<"active" | "mirror" | "image" | "missing", string>>;
  readonly arrow: string;
  /** From empty to full. */
  readonly blocks: readonly string[];
}

export async function makeCanvas(
  output: Output,
  env: CliContext["env"],
  refusesColor: boolean,
): Promise<Canvas> {
  const unicode = /utf-?8/i.test(env["LC_ALL"] || env["LC_CTYPE"] || env["LANG"] || "");
  const knownWidth = output.isTTY && output.columns !== undefined && output.columns > 0;
  return {
    paint: await makePaint(colorLevel(output, env, refusesColor)),
    columns: knownWidth ? output.columns : undefined,
    branch: unicode ? { more: "├─", last: "└─", bar: "│" } : { more: "|-", last: "`-", bar: "|" },
    marks: unicode
      ? { active: "●", mirror: "◇", image: "○", missing: "✗" }
      : { active: "*", mirror: "+", image: "o", missing: "x" },
    arrow: unicode ? "→" : "->",
    blocks: unicode ? ["·", "░", "▒", "▓", "█"] : [".", "-", "+", "*", "#"],
  };
}

/** NO_COLOR and --no-color win over FORCE_COLOR: who asks for none suffers more from getting some. */
export function colorLevel(
  output: Pick<Output, "isTTY">,
  env: CliContext["env"],
  refusesColor: boolean,
): ColorLevel {
  const forced = env["FORCE_COLOR"];
  if (refusesColor || (env["NO_COLOR"] ?? "") !== "") return 0;
  if (forced !== undefined && forced !== "") return forcedLevel(forced);
  if (!output.isTTY || env["TERM"] === "dumb" || isContinuousIntegration(env)) return 0;
  if (/^(truecolor|24bit)$/.test(env["COLORTERM"] ?? "")) return 3;
  return /-256(color)?$/.test(env["TERM"] ?? "") ? 2 : 1;
}

export function isContinuousIntegration(env: CliContext["env"]): boolean {
  const value = env["CI"] ?? "";
  return value !== "" && value !== "false" && value !== "0";
}

function forcedLevel(forced: string): ColorLevel {
  if (forced === "0" || forced === "false") return 0;
  if (forced === "2") return 2;
  return forced === "3" ? 3 : 1;
}

async function makePaint(level: ColorLevel): Promise<Paint> {
  if (level === 0) {
    const plain = (text: string): string => text;
    return { bold: plain, dim: plain, red: plain, yellow: plain, green: plain, cyan: plain };
  }
  const { Chalk } = await import("chalk");
  return new Chalk({ level });
}
