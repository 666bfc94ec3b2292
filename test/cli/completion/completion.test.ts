// Completion: in bash by calling the function as readline does; in zsh and fish by their own parsers,
// where those are installed.

import { spawnSync } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { COMMAND_TABLE } from "../../../src/cli/command-table.ts";
import { buildModel } from "../../../src/cli/completion/model.ts";
import { spellings } from "../../../src/cli/grammar/definition.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runCli } from "../../helpers/cli/harness.ts";

let folder = "";

// Stands for the imgtx that the script asks for devices; one of them tries to be run.
const IMGTX = `#!/bin/sh
case "$*" in
  "--workspace /w device list --quiet") echo wdisk ;;
  "device list --quiet") printf '%s\\n' vda vdb '$(touch ran)' ;;
  "txn list --quiet") echo 7f3k2m9qa1 ;;
  "snapshot-list -n 100 --quiet") printf '%s\\n' 'before upgrade' 12 ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
`;

beforeAll(async () => {
  folder = await mkdtemp(`${tmpdir()}/imgtx-completion-`);
  await writeFile(`${folder}/imgtx`, IMGTX);
  await chmod(`${folder}/imgtx`, 0o755);
  for (const shell of ["bash", "zsh", "fish"]) {
    const { status, stdout } = await runCli(["completion", shell]);
    expect(status).toBe(0);
    await writeFile(`${folder}/completion.${shell}`, stdout);
  }
  await writeFile(`${folder}/disk.qcow2`, "");
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

function runProgram(program: string, args: readonly string[]): string {
  const env = { ...process.env, PATH: `${folder}:${process.env["PATH"]}` };
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd: folder, env, encoding: "utf8" });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${program} ends with ${status}: ${stderr}`);
  return stdout + stderr;
}

/** What bash offers for these words; the last one is under the cursor. */
function complete(...words: readonly string[]): string[] {
  return completeEach([words])[0] ?? [];
}

const END = "=== no more of these ===";

/** The same of several, one after the other in one shell, as in a session. */
function completeEach(lines: readonly (readonly string[])[]): string[][] {
  const script = [
    "source completion.bash",
    "words=(imgtx)",
    'for word in "$@"; do',
    `  if [ "$word" != '${END}' ]; then words+=("$word"); continue; fi`,
    '  COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1)) COMPREPLY=()',
    "  _imgtx",
    `  printf '%s\\n' "\${COMPREPLY[@]}" '${END}'`,
    "  words=(imgtx)",
    "done",
  ].join("\n");
  const words = lines.flatMap((line) => [...line, END]);
  const answers = runProgram("bash", ["-c", script, "bash", ...words]).split(`${END}\n`);
  return lines.map((_, index) => (answers[index] ?? "").split("\n").filter((line) => line !== ""));
}

describe("bash", () => {
  test.each<[readonly string[], readonly string[]]>([
    [["sn"], ["snapshot", "snapshot-delete", "snapshot-group", "snapshot-list", "snapshot-show"]],
    [["txn", "c"], ["commit"]],
    [
      ["completion", ""],
      ["bash", "zsh", "fish"],
    ],
    [
      ["device", "show", "v"],
      ["vda", "vdb"],
    ],
    [
      ["snapshot", "--reuse", "v"],
      ["vda", "vdb"],
    ],
    [
      ["snapshot", "--format", "qcow2", "v"],
      ["vda", "vdb"],
    ],
    [
      ["--json", "snapshot", "v"],
      ["vda", "vdb"],
    ],
    [["--workspace", "/w", "device", "show", ""], ["wdisk"]],
    [["--workspace", "=", "/w", "device", "show", ""], ["wdisk"]],
    [["snapshot", "vda", "d"], ["disk.qcow2"]],
    [
      ["snapshot", "vda", "disk.qcow2", "--re"],
      ["--refcount-bits", "--relative", "--reuse"],
    ],
    [["snapshot", "vda", "--", "--re"], []],
    [["reopen", "vda", "--format", "r"], ["raw"]],
    [["--output", "=", "j"], ["json"]],
    [
      ["--output", "="],
      ["human", "json"],
    ],
    [
      ["snapshot-group", "vd"],
      ["vda=", "vdb="],
    ],
    [
      ["snapshot-group", "vda", "="],
      ["completion.bash", "completion.fish", "completion.zsh", "disk.qcow2", "imgtx"],
    ],
    [["snapshot-group", "vda", "=", "d"], ["disk.qcow2"]],
    [["snapshot-group", "vda", "=", "x", "vdb"], ["vdb="]],
    [["txn", "show", ""], ["7f3k2m9qa1"]],
    [
      ["snapshot-delete", "12", ""],
      ["before\\ upgrade", "12"],
    ],
    [["help", "roll"], ["rollback"]],
    [["help", "txn", "c"], ["commit"]],
    [["help", "rollback", ""], []],
    [["prune", "--keep-name", "be"], ["before\\ upgrade"]],
    [["recover", "--give-up", ""], ["7f3k2m9qa1"]],
    [["rollback", "--to", "be"], ["before\\ upgrade"]],
    [["txn", "commit", "--txn", "7"], ["7f3k2m9qa1"]],
    [
      ["txn", "begin", "--on-error", ""],
      ["abort", "keep"],
    ],
    [["recover", ""], []],
    [
      ["img", "c"],
      ["check", "commit", "compare", "convert", "create"],
    ],
    [
      ["img", "convert", "-O", ""],
      ["qcow2", "raw"],
    ],
    [["img", "convert", "-O", "qcow2", "d"], ["disk.qcow2"]],
    [["img", "compare", "-s", "d"], ["disk.qcow2"]],
    [["img", "map", "-s", "d"], []],
    [
      ["img", "info", "--output", ""],
      ["human", "json"],
    ],
  ])("%j offers %j", (words, offered) => {
    expect(complete(...words).sort()).toEqual([...offered].sort());
  });

  test("a device's name is never run", () => {
    expect(complete("device", "show", "")).toEqual(["vda", "vdb", "\\$\\(touch\\ ran\\)"]);
    expect(runProgram("ls", [])).not.toMatch(/^ran$/m);
  });

  test("every command and option is offered", async () => {
    const { commands, globals } = await buildModel(COMMAND_TABLE);
    const answers = completeEach(commands.map(({ name }) => [...name.split(" "), "-"]));
    for (const [index, { options, takesGlobals }] of commands.entries()) {
      const offered = answers[index] ?? [];
      const expected = [...options, ...(takesGlobals ? globals : [])].flatMap(spellings);
      expect(offered).toEqual(expect.arrayContaining(expected));
      if (!takesGlobals) expect(offered).not.toContain("--workspace");
    }
  });

  oracle("shellcheck").test("the script is clean to shellcheck", () => {
    expect(runProgram("shellcheck", ["-s", "bash", "completion.bash"])).toBe("");
  });
});

test("each place for a snapshot or a transaction offers those there are", async () => {
  const { commands, globals } = await buildModel(COMMAND_TABLE);
  const ofImgtx = commands.filter(({ name }) => !name.startsWith("img "));
  const places = [
    ...ofImgtx.flatMap((command) => [
      ...command.arguments,
      ...command.options.flatMap(({ value }) => value ?? []),
    ]),
    ...globals.flatMap(({ long, value }) => (value === undefined || long === "txn-id" ? [] : [value])),
  ];
  const offered = (name: string) => [
    ...new Set(places.flatMap((place) => (place.name === name ? [place.completes] : []))),
  ];
  expect([offered("SNAPSHOT"), offered("ID")]).toEqual([["snapshot"], ["transaction"]]);
});

test("the scripts of zsh and fish name every command and option", async () => {
  const { commands, globals } = await buildModel(COMMAND_TABLE);
  const [zsh, fish] = await Promise.all([runCli(["completion", "zsh"]), runCli(["completion", "fish"])]);
  for (const { name, options } of commands) {
    const verb = name.split(" ").at(-1) ?? "";
    expect(zsh.stdout).toContain(`_imgtx_cmd_${name.replaceAll(/[ -]/g, "_")}() {`);
    expect(fish.stdout).toContain(`-a ${verb} -d`);
    for (const { long, short } of [...options, ...globals]) {
      expect(zsh.stdout).toContain(long === undefined ? `-${short}` : `--${long}`);
      expect(fish.stdout).toContain(long === undefined ? `-s ${short} ` : `-l ${long} `);
    }
  }
});
