// man/imgtx-proposals.7: every example of the page is run, in the page's order and in one folder, and prints
// what the page says; every action and argument that QEMU itself names is explained there, and taken or
// refused for a reason.

import { execFile } from "node:child_process";
import { chmod, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ACTION_READERS } from "../../src/cli/batch/qmp/actions.ts";
import { oracle } from "../helpers/oracles.ts";
import { StorageDaemon } from "../helpers/qmp/storage-daemon.ts";
import { runQmp } from "../helpers/cli/run-qmp.ts";

const TOP = fileURLToPath(new URL("../..", import.meta.url));
const PAGE = await readFile(`${TOP}/man/imgtx-proposals.7`, "utf8");

interface Example {
  readonly command: string;
  /** What the page says that it prints. */
  readonly output: string;
}

/** The commands of the literal blocks, as an operator copies them: a quote that is open goes on, and after `# ` stands what is printed. */
function findExamples(page: string): Example[] {
  const blocks = [...page.matchAll(/^\.Bd -literal.*\n([^]*?)^\.Ed$/gm)].map(([, lines]) => lines ?? "");
  const examples: { command: string; output: string }[] = [];
  for (const line of blocks.flatMap((block) => block.split("\n").slice(0, -1))) {
    const last = examples.at(-1);
    if (last && isOpen(last.command)) last.command += `\n${line}`;
    else if (!line.startsWith("# ")) examples.push({ command: line, output: "" });
    else if (last) last.output += `${line.slice(2)}\n`;
  }
  return examples;
}

function isOpen(command: string): boolean {
  return command.split("'").length % 2 === 0 || command.endsWith("|");
}

const examples = findExamples(PAGE);

describe("the examples of the page", () => {
  let folder = "";
  let printed: readonly { readonly output: string; readonly status: number }[] = [];
  let complaints = "";

  beforeAll(async () => {
    folder = await mkdtemp(`${tmpdir()}/imgtx-proposals-`);
    await mkdir(`${folder}/work`);
    for (const name of ["bin", "package.json"])
      await cp(`${TOP}/${name}`, `${folder}/${name}`, { recursive: true });
    await symlink(`${TOP}/node_modules`, `${folder}/node_modules`);
    await promisify(execFile)("npm", ["run", "--silent", "--prefix", TOP, "build", `${folder}/dist`]);
    await mkdir(`${folder}/path`);
    await writeFile(`${folder}/path/imgtx`, `#!/bin/sh\nexec node "${folder}/bin/imgtx.js" "$@"\n`);
    await chmod(`${folder}/path/imgtx`, 0o755);
    ({ printed, complaints } = await runAll(folder));
  });

  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  test("are many, and all of them were run", () => {
    expect(examples.length).toBeGreaterThan(30);
    expect(printed).toHaveLength(examples.length);
  });

  test.each(examples.map((example, index) => ({ ...example, index })))(
    "$index: $command",
    ({ index, output }) => {
      expect({ ...printed[index], complaints: printed[index]?.status === 0 ? "" : complaints }).toEqual({
        output,
        status: 0,
        complaints: "",
      });
    },
  );
});

/** In one shell, so that variables last. A line after each command tells its output from the next one's. */
async function runAll(folder: string) {
  const mark = "=== of the test ===";
  const script = examples.map(({ command }) => `${command}\necho "${mark} $?"`).join("\n");
  const { stdout, stderr } = await promisify(execFile)("bash", ["-c", script], {
    cwd: `${folder}/work`,
    env: { ...process.env, PATH: `${folder}/path:${process.env["PATH"] ?? ""}`, NO_COLOR: "1" },
  });
  const parts = stdout.split(/^=== of the test === (\d+)\n/m);
  const printed = examples.flatMap((_, index) => {
    const [output, status] = parts.slice(index * 2, index * 2 + 2);
    return output === undefined || status === undefined ? [] : [{ output, status: Number(status) }];
  });
  return { printed, complaints: stderr };
}

/** The part of the page about a command. */
function sectionOf(name: string): string {
  const parts = PAGE.split(/^(?=\.S[sh] )/m);
  const found = parts.find((part) => (part.split("\n")[0] ?? "").split(/,? /).includes(name));
  if (found === undefined) throw new Error(`the page has no section about ${name}`);
  return found;
}

test("every command that imgtx knows has a section", () => {
  const bitmap = "block-dirty-bitmap-";
  for (const name of Object.keys(ACTION_READERS)) {
    if (name.startsWith(bitmap)) expect(sectionOf(`${bitmap}add`)).toContain(`-${name.slice(bitmap.length)}`);
    else expect(sectionOf(name)).toContain(`.Ss`);
  }
});

interface SchemaEntry {
  readonly name: string;
  readonly "meta-type": string;
  readonly "arg-type": string;
  readonly "element-type": string;
  readonly members: readonly { readonly name: string; readonly type: string; readonly default?: null }[];
  readonly variants: readonly { readonly case: string; readonly type: string }[];
  readonly values: readonly string[];
  readonly "json-type": string;
}

/** The actions and commands of the QEMU that is here, with a value for each argument. */
async function readSchema() {
  const daemon = await StorageDaemon.start(tmpdir());
  try {
    const all = (await daemon.do("query-qmp-schema")) as SchemaEntry[];
    const entries = new Map(all.map((entry) => [entry.name, entry]));
    const get = (name: string): SchemaEntry => {
      const entry = entries.get(name);
      if (!entry) throw new Error(`QEMU's schema has no ${name}`);
      return entry;
    };
    const member = (holder: SchemaEntry, name: string) =>
      get(holder.members.find((each) => each.name === name)?.type ?? "");
    const action = get(member(get(get("transaction")["arg-type"]), "actions")["element-type"]);
    const actions = action.variants.map(({ case: type, type: holder }) => ({
      type,
      data: member(get(holder), "data"),
    }));
    const mirror = { type: "drive-mirror", data: get(get("drive-mirror")["arg-type"]) };
    const sampleOf = (name: string): readonly unknown[] => {
      const entry = get(name);
      if (entry["meta-type"] === "enum") return entry.values;
      if (entry["meta-type"] === "object") return [{}];
      if (entry["meta-type"] === "array") return [[]];
      return { boolean: [true, false], int: [0], string: ["x"] }[entry["json-type"]] ?? [null];
    };
    return [...actions, mirror].map(({ type, data }) => ({
      type,
      required: Object.fromEntries(
        data.members
          .filter((each) => !("default" in each))
          .map(({ name, type: valueType }) => [name, sampleOf(valueType)[0]]),
      ),
      members: data.members.map(({ name, type: valueType }) => ({ name, values: sampleOf(valueType) })),
    }));
  } finally {
    await daemon.stop();
  }
}

describe("QEMU's own schema", () => {
  const { test: withQemu } = oracle("qemu-storage-daemon", "timeout");

  withQemu("has no action and no argument that the page leaves out", async () => {
    const schema = await readSchema();
    expect(schema.map(({ type }) => type)).toEqual(expect.arrayContaining(["abort", "drive-backup"]));
    expect(schema.length).toBeGreaterThan(12);
    for (const { type, members } of schema) {
      const name = type.startsWith("block-dirty-bitmap-") ? "block-dirty-bitmap-add" : type;
      const text = sectionOf(name) + (type === "blockdev-backup" ? sectionOf("drive-backup") : "");
      for (const member of members) expect(text).toMatch(new RegExp(`Cm .*${member.name}\\b`));
    }
  });

  withQemu("has no argument that imgtx does not know", async () => {
    for (const { type, required, members } of await readSchema()) {
      for (const { name, values } of members) {
        for (const value of values) {
          const { stderr } = await runQmp([{ type, data: { ...required, [name]: value } }]);
          expect(stderr).not.toContain("member '");
        }
      }
    }
  });
});
