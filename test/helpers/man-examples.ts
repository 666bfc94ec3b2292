// Scripts of manual pages, as an operator copies them.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The first literal display of a subsection. */
export function exampleOf(page: string, section: string): string {
  const text = readFileSync(fileURLToPath(new URL(`../../man/${page}`, import.meta.url)), "utf8");
  const part = text.split(/^\.Ss /m).find((one) => one.startsWith(section)) ?? "";
  return (/^\.Bd -literal\n([^]*?)^\.Ed$/m.exec(part)?.[1] ?? "").replaceAll("\\e", "\\");
}
