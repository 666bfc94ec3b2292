// A command in a hint means, when it is pasted, the very file that it is about: whatever is in its name.

import { execFileSync } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { splitWords } from "../../src/cli/batch/words.ts";
import { shellQuote } from "../../src/format/index.ts";
import { printable } from "../../src/cli/render/printable.ts";
import { runCli } from "../helpers/cli/harness.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const SOURCE = fileURLToPath(new URL("../../src", import.meta.url));

// Letters, digits and _.+- in devices' names, which begin with none of the last three; ids of transactions; numbers.
const NEEDS_NO_QUOTES = new Set([
  "device",
  "entry.name",
  "format",
  "gate.device",
  "holder",
  "id",
  "journal.id",
  "keeper", // a device
  "kind",
  "link.format",
  "mirrored.name", // a device
  "name", // of a device; of a user, quoted before
  "number",
  "other", // a device
  "other.id",
  "openedWithout(imagePath)", // quoted in there
  "outcome.transaction",
  "sizeBytes",
  "snapshot.number",
  "taken.number",
  "this.#block.id",
  "this.id",
  "verb",
  "version",
  "wanted",
  "writer", // a device
  "was", // a size
  'was < size ? " --shrink" : ""',
  'way.replace("DEVICES", names.join(" "))', // devices, in a command that is written there
  "which", // numbers
]);
// `commandFor` of a savepoint: the dash that its name may begin with.
const IS_QUOTED = /^(?:shellQuote\(|name\.startsWith\("-"\) \? "-- " : ""$)/;

/** What stands in place of words in the commands of messages: `imgtx mirror ${device} ${shellQuote(image)}`. */
async function listPlaces(): Promise<{ place: string; command: string }[]> {
  const files = (await readdir(SOURCE, { recursive: true })).filter((file) => file.endsWith(".ts"));
  const found: { place: string; command: string }[] = [];
  for (const file of files) {
    const text = await readFile(`${SOURCE}/${file}`, "utf8");
    const commands = text.matchAll(
      /(?:\\`|[`(]|: `)((?:imgtx(?! knows| does| mends)|qemu-img|chmod|mv|ls|namei|findmnt|sudo) (?:[a-z-]+ )*(?:\$\{(?:[^{}]|\{[^{}]*\})*\}|[^`\n$])*)`/g,
    );
    for (const [, command = ""] of commands) {
      const places = command.replaceAll("\\", "").matchAll(/\$\{((?:[^{}]|\{[^{}]*\})*)\}/g);
      for (const [, place = ""] of places) found.push({ place, command: `${file}: ${command}` });
    }
  }
  return found;
}

test("every name in a command of a message is quoted, or needs no quotes", async () => {
  const places = await listPlaces();
  expect(places.length).toBeGreaterThan(50);
  expect(places.some(({ place }) => IS_QUOTED.test(place))).toBe(true);
  // Of help and the program's own name, where no file is spoken of.
  const others = places.filter(
    ({ command }) => !/^cli\/(?:render\/help|img\/|main|completion\/)/.test(command),
  );
  expect(others.filter(({ place }) => !NEEDS_NO_QUOTES.has(place) && !IS_QUOTED.test(place))).toEqual([]);
});

const SAMPLES: Readonly<Record<string, string>> = {
  // Where a command is put together of a part that may be another word.
  verb: "abort",
  kind: "undo",
  format: "qcow2",
  wanted: "2M",
  was: "2M",
  sizeBytes: "1048576",
  'was < size ? " --shrink" : ""': " --shrink",
  'name.startsWith("-") ? "-- " : ""': "-- ",
  'way.replace("DEVICES", names.join(" "))': "unfreeze vda",
  // Words in capitals, which whoever pastes the command replaces.
  FORMAT: "qcow2",
  SIZE: "2M",
  OVERLAY: "w2",
};
const sampleOf = (place: string): string => SAMPLES[place] ?? (/umber|which/.test(place) ? "3" : "w1");

/** The commands of messages, with samples for what stands in place of words. */
async function listCommands(): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  const files = (await readdir(SOURCE, { recursive: true })).filter((file) => file.endsWith(".ts"));
  // Help speaks of commands by their names, and has what a command begins with.
  for (const file of files.filter(
    (name) => !/^cli\/(?:commands|grammar|img|completion|batch)\/|help/.test(name),
  )) {
    const text = (await readFile(`${SOURCE}/${file}`, "utf8")).replaceAll(/^\s*(?:\/\/|\*|\/\*).*$/gm, "");
    const commands = text.matchAll(
      /(?<!\$\{version\} )(?:\\`|(?<=["' (])`)imgtx ((?!knows|does|opens|\$\{version)[^`\n]*?)\\?`/g,
    );
    for (const [, command = ""] of commands) {
      // A line of the source ends in it, or the command goes on elsewhere.
      if (/\$\{shellQuote\($|\$\{shellQuote\(root\)\}$/.test(command)) continue;
      const filled = command
        .replaceAll("\\", "")
        .replaceAll(/\$\{((?:[^{}]|\{[^{}]*\})*)\}/g, (_, place: string) => sampleOf(place))
        .replaceAll(/(?<= )[A-Z]{4,}\b/g, sampleOf);
      for (const one of filled.split(/ && imgtx /)) found.set(one, file);
    }
  }
  return found;
}

test("every command of a message is one of imgtx's grammar, with all that it needs", async () => {
  const commands = await listCommands();
  expect(commands.size).toBeGreaterThan(80);
  const refused: string[] = [];
  for (const [command, file] of commands) {
    // In an empty folder: what the grammar takes finds no workspace there, and no file.
    const { status, stderr } = await runCli(splitWords(command), { cwd: makeFolder() });
    const isTaken = command.startsWith("img ")
      ? /^imgtx: (?:w[12]: )?(?:Could not open|Cannot)/.test(stderr)
      : status !== 64;
    if (!isTaken) refused.push(`${file}: ${command}: ${stderr.split("\n")[0]}`);
  }
  expect(refused).toEqual([]);
});

describe("a name as a word of a command is shown whole, and is the same name in a shell:", () => {
  test.each([
    ["spaces", "a b  c"],
    ["quotes", `it's "full" \`now\``],
    ["a backslash", "a\\b\\n\\'c"],
    ["what a shell would expand", "$(touch x)$HOME*?[a]~;&|<>#!{a,b}"],
    ["umlauts", "Bücher ü 日本"],
    ["a line break", "a\nb 'c' \\d"],
    ["a line break before a digit", "a\n1\t2\u001b3"],
    ["escape sequences", "\u001b[2J\u0007"],
    ["marks that reorder", "a\u202egpj\u2066.1"],
    ["an invisible tag", "a\u{e0041}7"],
  ])("%s", (_, name) => {
    const word = shellQuote(name);
    expect(printable(word)).toBe(word);
    const locale = { ...process.env, LC_ALL: "C" };
    const read = execFileSync("bash", ["-c", `printf %s ${word}`], { encoding: "utf8", env: locale });
    expect(read).toBe(name);
  });
});
