// The first session of the README, run as it stands: it prints what the page says.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { runCli } from "../helpers/cli/harness.ts";
import { oracle } from "../helpers/oracles.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const README = readFileSync(fileURLToPath(new URL("../../README.md", import.meta.url)), "utf8");
const SECTION = /^## The first session\n([^]*?)^## /m.exec(README)?.[1] ?? "";
const SESSION = SECTION.split("\n")
  .flatMap((line) => (line === "" || line.startsWith("    ") ? [line.slice(4)] : []))
  .join("\n")
  .trim();

/** When it was, and what a file system takes for a file. */
function filter(text: string): string {
  return text
    .replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ/g, "TIME")
    .replaceAll(/[\d.]+ [KMG]?i?B on disk, \d+ min old/g, "SIZE on disk")
    .replaceAll(/(?<=^\d+ +TIME.*?)[\d.]+ [KM]?i?B */gm, "SIZE ")
    .replaceAll(/SIZE +MESSAGE/g, "SIZE  MESSAGE")
    .replaceAll(/ +$/gm, "");
}

oracle("qemu-io").test("the first session of the README prints what it says", async () => {
  const cwd = makeFolder();
  const lines: string[] = [];
  for (const line of SESSION.split("\n").filter((one) => one.startsWith("$ "))) {
    const [program = "", ...words] = [...line.slice(2).matchAll(/'([^']*)'|\S+/g)].map(
      ([word, quoted]) => quoted ?? word,
    );
    if (program === "imgtx") {
      const { stdout, stderr } = await runCli(words, { cwd, env: { LANG: "C.UTF-8" } });
      lines.push(line, (stdout + stderr).trimEnd());
    } else {
      lines.push(line, execFileSync(program, words, { cwd, encoding: "utf8" }).trimEnd());
    }
  }
  const printed = lines.filter((text, index) => index % 2 === 0 || text !== "").join("\n");
  expect(filter(printed).replaceAll(cwd, "/srv/guests")).toBe(filter(SESSION));
});
