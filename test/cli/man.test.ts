// The man pages against the definitions: every command, argument, option and exit status is in its page,
// and no page speaks of an option that does not exist.

import { execFile, execFileSync } from "node:child_process";
import { access, readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { findGroup } from "../../src/cli/grammar/command-groups.ts";
import { COMMAND_TABLE } from "../../src/cli/command-table.ts";
import type { CommandRow } from "../../src/cli/grammar/definition.ts";
import {
  type CommandDefinition,
  type OptionDefinition,
  spellings,
} from "../../src/cli/grammar/definition.ts";
import { GLOBAL_OPTIONS } from "../../src/cli/grammar/global-options.ts";
import { allowDevicesOption } from "../../src/cli/grammar/allow-devices.ts";
import { allowPathOption } from "../../src/cli/grammar/allow-path.ts";
import { oracle } from "../helpers/oracles.ts";

const MAN = fileURLToPath(new URL("../../man", import.meta.url));

interface Documented {
  readonly row: CommandRow;
  readonly definition: CommandDefinition;
}

const commands: Documented[] = [];
for (const row of COMMAND_TABLE) {
  if (row.section !== "hidden") commands.push({ row, definition: (await row.load()).definition });
}

const pageNames = [...new Set(commands.map(({ row }) => pageOf(row)))];

/** The page that explains a command: a group has one for all of its verbs, help is in the main page. */
function pageOf({ path }: CommandRow): string {
  if (path[0] === "img") return `imgtx-img-${path[1]}.1`;
  return path[0] === "help" ? "imgtx.1" : `imgtx-${path[0]}.1`;
}

async function readPage(name: string): Promise<string> {
  return readFile(`${MAN}/${name}`, "utf8");
}

/** `--name` and `-n` of every `.Fl` in a page, and of the lines in its examples. */
function findOptions(page: string): Set<string> {
  const found = new Set<string>();
  for (const line of page.split("\n")) {
    if (line.startsWith(".")) {
      for (const [, name] of line.matchAll(/\bFl (-?[\w-]*\w)/g)) found.add(`-${name}`);
    }
    if (line.startsWith(".Dl") || !line.startsWith(".")) {
      for (const [name] of line.matchAll(/(?<![\w-])--[a-z][\w-]*/g)) found.add(name);
    }
  }
  return found;
}

function flagsOf(options: readonly OptionDefinition[]): string[] {
  return options.flatMap(spellings);
}

describe.each(commands.map((command) => ({ name: command.row.path.join(" "), ...command })))(
  "imgtx $name",
  ({ row, definition }) => {
    test("is in its page with every argument, option and exit status", async () => {
      const page = await readPage(pageOf(row));
      const verb = row.path.at(-1) ?? "";
      const inGroup = (findGroup(row.path[0]) !== undefined || verb === "help") && row.path[0] !== "img";
      expect(page).toContain(inGroup ? `.Cm ${verb}\n` : `.Nm imgtx ${row.path.join(" ")}\n`);
      expect([...findOptions(page)]).toEqual(expect.arrayContaining(flagsOf(definition.options)));
      for (const { name } of definition.arguments) expect(page).toContain(`Ar ${name}`);
      for (const { value } of definition.options) {
        if (value) expect(page).toContain(`Ar ${value.name}`);
        for (const choice of value?.choices ?? []) expect(page).toContain(choice);
      }
      for (const status of definition.exits) expect(page).toContain(`\n.It ${status}\n`);
    });
  },
);

describe.each(pageNames)("the page %s", (name) => {
  const here = commands.filter(({ row }) => pageOf(row) === name);
  const isMain = name === "imgtx.1";

  test("speaks of no option that does not exist", async () => {
    const anywhere = commands.flatMap(({ definition }) => definition.options);
    const known = flagsOf([
      ...GLOBAL_OPTIONS,
      ...(name.startsWith("imgtx-img-") ? [allowPathOption, allowDevicesOption] : []),
      ...(isMain ? anywhere : here.flatMap(({ definition }) => definition.options)),
    ]);
    // `.Fl -` is the double dash itself.
    const unknown = [...findOptions(await readPage(name))].filter((option) => !known.includes(option));
    expect(unknown).toEqual([]);
  });

  test("explains each option under OPTIONS, not in the synopsis alone", async () => {
    const options = isMain ? GLOBAL_OPTIONS : here.flatMap(({ definition }) => definition.options);
    const page = await readPage(name);
    for (const { long, short } of options) {
      expect(page).toMatch(new RegExp(`^\\.It .*Fl ${long === undefined ? short : `-${long}`}\\b`, "m"));
    }
  });

  test("refers only to pages that are there, and has the sections of the house", async () => {
    const page = await readPage(name);
    for (const [, other, section] of page.matchAll(/\.Xr (imgtx[\w-]*) (\d)/g)) {
      await access(`${MAN}/${other}.${section}`);
    }
    for (const heading of ["SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]) {
      expect(page).toContain(`.Sh ${heading}\n`);
    }
  });
});

test("the main page names every command and every variable of the environment", async () => {
  const page = await readPage("imgtx.1");
  const verbs = new Set(commands.map(({ row }) => row.path[0] ?? ""));
  for (const verb of verbs) expect(page).toContain(`.It Cm ${verb}\n`);
  const pages = `${page}${await readPage("imgtx-img.1")}imgtx.1`;
  for (const name of pageNames) expect(pages).toContain(name.replace(/\.1$/, ""));
  const source = await readSources();
  const variables = new Set([...source.matchAll(/\benv\["(\w+)"\]/g)].map(([, name]) => name ?? ""));
  // COLORTERM only refines what TERM says.
  variables.delete("COLORTERM");
  expect(variables.size).toBeGreaterThan(5);
  for (const variable of variables) expect(page).toContain(`Ev ${variable}`);
});

async function readSources(): Promise<string> {
  const folder = fileURLToPath(new URL("../../src/cli", import.meta.url));
  const names = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith(".ts"));
  const texts = await Promise.all(names.map(async (name) => readFile(`${folder}/${name}`, "utf8")));
  return texts.join("\n");
}

test.each((await readdir(MAN)).filter((name) => !name.endsWith(".1")))(
  "the page %s refers only to pages that are there",
  async (name) => {
    const references = [...(await readPage(name)).matchAll(/\.Xr (imgtx[\w-]*) (\d)/g)];
    expect(references.length).toBeGreaterThan(0);
    for (const [, other, section] of references) await access(`${MAN}/${other}.${section}`);
  },
);

oracle("mandoc").test("every page is clean to mandoc's lint", async () => {
  const names = (await readdir(MAN)).filter((name) => /\.\d$/.test(name));
  expect(names.length).toBeGreaterThan(10);
  const findings = await lint(names.map((name) => `${MAN}/${name}`));
  // It looks for other pages where they are installed, which these may not be.
  expect(findings.filter((line) => !/referenced manual not found|outdated mandoc\.db/.test(line))).toEqual(
    [],
  );
});

describe.each((await readdir(MAN)).filter((name) => /\.\d$/.test(name)))("%s as it is shown", (name) => {
  // mandoc's lint takes any nesting of macros for meant; only the outcome tells.
  oracle("mandoc").test("closes each quote before it opens the next of its kind", () => {
    const paragraphs = show(name).split(/\n\s*\n/);
    expect(paragraphs.length).toBeGreaterThan(5);
    expect(paragraphs.filter((text) => hasMisnestedQuotes(text))).toEqual([]);
  });

  oracle("mandoc").test("begins each line of its synopsis with a command's name", () => {
    const [, synopsis = ""] = /^SYNOPSIS\n(.*?)^[A-Z]/ms.exec(show(name)) ?? [];
    expect(synopsis === "").toBe(!name.endsWith(".1"));
    const starts = synopsis.split("\n").filter((line) => /^ {5}\S/.test(line));
    expect(starts.filter((line) => !/^ {5}(imgtx|qemu-img) /.test(line))).toEqual([]);
  });
});

test.each([
  ["a quote within its own kind", "(‘image and ‘format’’)", true],
  ["a quote that is not closed", "(“abort or keep)", true],
  ["a quote that was not opened", "abort”", true],
  ["quotes one after the other", "(‘image’ and ‘format’), “abort” or “keep”", false],
  ["a quote in another kind", "“imgtx ‘a’ b”", false],
])("%s: misnested: %s → %s", (_what, text, expected) => {
  expect(hasMisnestedQuotes(text)).toBe(expected);
});

function hasMisnestedQuotes(text: string): boolean {
  return [/[‘’]/g, /[“”]/g].some((kind) => {
    const signs = text.match(kind) ?? [];
    return signs.length % 2 !== 0 || signs.some((sign, index) => "‘“".includes(sign) !== (index % 2 === 0));
  });
}

const shown = new Map<string, string>();

/** A page as a terminal of 100 columns shows it, without bold and underlines. */
function show(name: string): string {
  const known = shown.get(name);
  if (known !== undefined) return known;
  const page = execFileSync(MANDOC, ["-T", "utf8", "-O", "width=100", `${MAN}/${name}`], {
    encoding: "utf8",
  });
  const plain = page.replace(new RegExp(".\b", "g"), "");
  shown.set(name, plain);
  return plain;
}

const MANDOC = "mandoc";

function lint(paths: readonly string[]): Promise<string[]> {
  return new Promise((resolve) => {
    // Findings come on stdout, with a status that says how bad the worst is.
    execFile(MANDOC, ["-T", "lint", ...paths], (_error, stdout) => {
      resolve(stdout.split("\n").filter((line) => line !== ""));
    });
  });
}
