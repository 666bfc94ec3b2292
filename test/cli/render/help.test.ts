// Help: complete, and readable on narrow terminals.

import { describe, expect, test } from "vitest";
import { GROUPS } from "../../../src/cli/grammar/command-groups.ts";
import { COMMAND_TABLE } from "../../../src/cli/command-table.ts";
import { optionTerm } from "../../../src/cli/render/help.ts";
import { runCli } from "../../helpers/cli/harness.ts";

const rows = COMMAND_TABLE.filter(({ section }) => section !== "hidden");
const pages = [[], ...GROUPS.map(({ name }) => [name]), ...rows.map(({ path }) => [...path])];
/** A line without its indentation, its continuation, and what is quoted, none of which can be broken. */
function unbroken(line: string): string {
  return line
    .trim()
    .replace(/ \\$/, "")
    .replaceAll(/'[^']*'/g, "''");
}

const env = { NO_COLOR: "1" };

describe.each(pages.map((path) => ({ name: ["imgtx", ...path].join(" "), path })))("$name", ({ path }) => {
  test("has help, the same by --help, -h and `imgtx help`", async () => {
    const byWord = await runCli(["help", ...path]);
    expect(byWord).toMatchObject({ status: 0, stderr: "" });
    expect(await runCli(["-h", ...path])).toEqual(byWord);
    const byOption = await runCli([...path, "--help"]);
    // That of qemu-img's commands has the form of the version asked for: versions.test.ts compares it.
    if (path[0] === "img") expect(byOption).toMatchObject({ status: 0, stderr: "" });
    else expect(byOption).toEqual(byWord);
  });

  test.each([80, 40])("breaks lines at %i columns; only what has no space sticks out", async (terminal) => {
    const { stdout } = await runCli(["help", ...path], { terminal, env });
    const long = stdout.split("\n").filter((line) => line.length > terminal);
    expect(long.filter((line) => unbroken(line).includes(" "))).toEqual([]);
  });
});

describe.each(rows.map((row) => ({ name: row.path.join(" "), row })))("help of $name", ({ row }) => {
  test("explains every argument, option and exit status, with examples of it", async () => {
    const { definition } = await row.load();
    const { stdout } = await runCli(["help", ...row.path]);
    expect(definition.about.split(" ").length).toBeGreaterThan(5);
    expect(definition.examples.length).toBeGreaterThan(0);
    // What qemu-img ends usage errors with.
    const usageStatus = row.path[0] === "img" ? 1 : 64;
    expect(definition.exits).toEqual(expect.arrayContaining([0, usageStatus]));
    for (const option of definition.options) expect(stdout).toContain(optionTerm(option));
    for (const argument of definition.arguments) expect(stdout).toContain(argument.name);
    for (const status of definition.exits) expect(stdout).toMatch(new RegExp(`^  ${status} `, "m"));
    const commands = definition.examples.map(({ command }) => command).join("\n");
    expect(commands).toContain(`imgtx ${row.path.join(" ")}`);
  });

  test("has only short options that mean one thing on its command line", async () => {
    const { globalOptionsBeside } = await import("../../../src/cli/grammar/global-options.ts");
    const { definition } = await row.load();
    const globals = row.path[0] === "img" ? [] : globalOptionsBeside(definition.options);
    const names = [...definition.options, ...globals].flatMap(({ short, long }) => [
      ...(short === undefined ? [] : [`-${short}`]),
      ...(long === undefined ? [] : [`--${long}`]),
    ]);
    expect(new Set(names).size).toBe(names.length);
  });
});

test("hidden commands are in no help", async () => {
  const { stdout } = await runCli(["--help"]);
  expect(stdout).not.toContain("refuse");
});

test("headings are bold on a terminal", async () => {
  const { stdout } = await runCli(["--help"], { terminal: 80, env: { TERM: "xterm" } });
  expect(stdout).toContain("\u001b[1mTransactions\u001b[22m");
});
