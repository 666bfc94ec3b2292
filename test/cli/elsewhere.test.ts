// man/imgtx-elsewhere.7: each fault comes about with the other tool as the page has it, and not with imgtx.

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { runCli } from "../helpers/cli/harness.ts";
import { oracle } from "../helpers/oracles.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const PAGE = readFileSync(fileURLToPath(new URL("../../man/imgtx-elsewhere.7", import.meta.url)), "utf8");
const CASES = PAGE.split(/^\.S[hs] /m)
  .filter((part) => part.includes(".Bd -literal"))
  .map((part): [string, string[]] => [
    part.split("\n")[0] ?? "",
    [...part.matchAll(/^\.Bd -literal.*\n([^]*?)^\.Ed$/gm)].map(([, block = ""]) =>
      block.replaceAll("\\e", "\\"),
    ),
  ]);

/** Each line as a shell runs it; what a comment below it says is printed, and without one it ends with 0. */
async function runBlock(block: string): Promise<void> {
  const cwd = makeFolder();
  const lines = block.trimEnd().split("\n");
  for (const [index, line] of lines.entries()) {
    if (line.startsWith("# ")) continue;
    const says = lines[index + 1]?.startsWith("# ") ? lines[index + 1]?.slice(2) : undefined;
    const { status, text } = await run(cwd, line);
    if (says === undefined)
      expect({ line, status, text: status === 0 ? "" : text }).toEqual({ line, status: 0, text: "" });
    else expect(text).toContain(says);
  }
}

async function run(cwd: string, line: string): Promise<{ status: number | null; text: string }> {
  if (line.startsWith("imgtx ")) {
    const { status, stdout, stderr } = await runCli(line.split(" ").slice(1), { cwd });
    return { status, text: stdout + stderr };
  }
  const { status, stdout, stderr } = spawnSync("bash", ["-c", line], { cwd, encoding: "utf8" });
  return { status, text: stdout + stderr };
}

oracle("qemu-img", "qemu-io").test.each(CASES)("%s", async (_, [theirs = "", ours = ""]) => {
  expect(theirs).not.toContain("imgtx ");
  await runBlock(theirs);
  expect(ours).toContain("imgtx ");
  await runBlock(ours);
});

oracle("qemu-img", "qemu-io").test("the page has cases", () => {
  expect(CASES.length).toBeGreaterThanOrEqual(10);
});
