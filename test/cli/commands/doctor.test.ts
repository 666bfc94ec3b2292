// imgtx doctor: each thing that it finds, made as it comes about, and the command that it gives, pasted: it works, and the
// finding is gone.

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { FINDINGS } from "../../../src/transaction/doctor/findings.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { runCli } from "../../helpers/cli/harness.ts";
import { shell } from "../../helpers/cli/against-qemu.ts";
import { BASE, CREATE, OVER, PATCH, type Trouble, TROUBLES } from "../../helpers/cli/doctor-troubles.ts";
import { paste, runScript } from "../../helpers/cli/scripts.ts";
import { unpackAllFixtures } from "../../helpers/fixtures.ts";
import { makeFolder, makeFolderOfFile, watchStorage } from "../../helpers/temporary-folder.ts";

const TOP = fileURLToPath(new URL("../../..", import.meta.url));

interface Told {
  readonly code: keyof typeof FINDINGS;
  readonly level: string;
  readonly path: string;
  readonly command: string | null;
  readonly offset: number | null;
  readonly fixable: boolean;
  readonly text: string;
}

async function examine(
  cwd: string,
  words: readonly string[],
  through?: Trouble["through"],
): Promise<{ status: number; findings: readonly Told[] }> {
  const storage = through && { storage: through(makeNodeStorage(), cwd) };
  const { status, stdout, stderr } = await runCli(["doctor", "--json", ...words], { cwd, ...storage });
  expect(stderr).toBe("");
  return { status, findings: (JSON.parse(stdout) as { findings: Told[] }).findings };
}

async function make(folder: string, script: Trouble["script"]): Promise<void> {
  if (typeof script === "string") await runScript(folder, script);
  else await script(folder);
}

describe.each(TROUBLES)(
  "doctor finds $code, at $at",
  ({ code, script, at, words = ["."], hasNone, stays, through }) => {
    test(
      hasNone ? "and says that no command mends it" : "and gives a command that works when it is pasted",
      async () => {
        const cwd = makeFolder("on a disk");
        await make(cwd, script);
        const { status, findings } = await examine(cwd, words, through);
        expect(status).toBe(1);
        const wanted = (one: Told): boolean =>
          one.code === code && one.path === (at === "." ? cwd : `${cwd}/${at}`);
        const found = findings.find(wanted);
        expect(found ?? findings).toMatchObject({ code, level: FINDINGS[code] });
        if (hasNone && code !== "perhaps-cut-off") expect(found?.command).toBeNull();
        if (hasNone || !found?.command) return expect(hasNone).toBe(true);
        await paste(cwd, found.command);
        const after = await examine(cwd, words, through);
        expect(after.findings.some(wanted)).toBe(stays === true);
      },
    );
  },
);

test("a sound folder is told as that, with what was read", async () => {
  const cwd = makeFolder("on a disk");
  shell(cwd, `${BASE}; ${OVER("o.qcow2")}`);
  expect(await runCli(["doctor", "."], { cwd })).toEqual({
    status: 0,
    stdout: "Sound: 2 images, of 2 files; headers were read, and no refcounts: --check reads those.\n",
    stderr: "",
  });
});

test("hostile images, FIFOs and names do no harm: nothing is changed, no device is opened, and no terminal steered", async () => {
  const cwd = makeFolderOfFile();
  await unpackAllFixtures(cwd);
  shell(
    cwd,
    `mkfifo pipe; ln -s /dev/zero zero; ln -s . loop; ln -s circle circle; cp base.qcow2 $'a\\n\\e[2Jb.qcow2'`,
  );
  const digest = (): string =>
    shell(cwd, "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum");
  const before = digest();
  const { storage, opened, countOpen } = watchStorage();
  const { status, stdout, stderr } = await runCli(["doctor", "."], { cwd, storage });
  expect([status, stderr, countOpen()]).toEqual([1, "", 0]);
  expect(opened.filter((path) => path === "/dev/zero")).toEqual([]);
  expect(stdout.replaceAll("\n", "")).not.toMatch(/\p{Cc}/u);
  // No command leads a file of the host into an image.
  expect(
    stdout.split("\n").filter((line) => line.startsWith("  $ ") && line.includes("/etc/passwd")),
  ).toEqual([]);
  const checked = await runCli(["doctor", "--check", "."], { cwd });
  expect(checked.status).toBe(1);
  expect(digest()).toBe(before);
});

test("a bound that is reached is said", async () => {
  const cwd = makeFolder("on a disk");
  shell(cwd, `mkdir -p a; for n in 1 2 3; do ${CREATE} a/$n.qcow2 1M; done`);
  const { status, stdout } = await runCli(["doctor", "--max-files", "2", "."], { cwd });
  expect(status).toBe(0);
  expect(stdout).toContain("Not looked at: what else is in ");
  expect(
    JSON.parse((await runCli(["doctor", "--json", "--max-files", "2", "."], { cwd })).stdout),
  ).toMatchObject({
    files: 2,
    left: [expect.stringContaining("beyond 2 files")],
  });
});

describe("--fix", () => {
  const makeDirty = async (cwd: string): Promise<void> => {
    await runScript(cwd, `${BASE}; cp base.qcow2 dirty.qcow2; cp base.qcow2 own.qcow2`);
    await runScript(
      cwd,
      `imgtx device add vda own.qcow2; ${PATCH("own.qcow2", 79, "01")}; ${PATCH("dirty.qcow2", 79, "01")}`,
    );
  };

  test("does what loses nothing, in workspaces and beside images, and says what is left", async () => {
    const cwd = makeFolder("on a disk");
    await makeDirty(cwd);
    shell(cwd, OVER("o.qcow2", '"$PWD/base.qcow2"'));
    const before = ["own.qcow2", "dirty.qcow2"].map((name) => readFileSync(`${cwd}/${name}`));
    const dry = await runCli(["doctor", "--fix", "--dry-run", "."], { cwd });
    expect(dry.stdout).toMatch(/^would fix: dirty.qcow2 \(dirty-bit\)$/m);
    expect(["own.qcow2", "dirty.qcow2"].map((name) => readFileSync(`${cwd}/${name}`))).toEqual(before);
    const { status, stdout } = await runCli(["doctor", "--fix", "--json", "."], { cwd });
    const told = JSON.parse(stdout) as { findings: Told[]; fixed: Told[]; "not-fixed": Told[] };
    expect(told.fixed.map(({ path, code }) => `${path} ${code}`).sort()).toEqual([
      `${cwd}/dirty.qcow2 dirty-bit`,
      `${cwd}/own.qcow2 dirty-bit`,
    ]);
    expect(told["not-fixed"]).toEqual([]);
    // What is somebody's to decide stays.
    expect([status, told.findings.map(({ code }) => code)]).toEqual([
      1,
      expect.arrayContaining(["name-absolute"]),
    ]);
    expect(told.findings.some(({ code }) => code === "dirty-bit")).toBe(false);
    expect(readdirSync(cwd).filter((name) => name.startsWith(".") && name !== ".imgtx")).toEqual([]);
  });

  test("changes nothing that a device only stands on, and says so", async () => {
    const cwd = makeFolder("on a disk");
    await makeDirty(cwd);
    await runScript(
      cwd,
      `${PATCH("own.qcow2", 79, "00")}; imgtx snapshot vda; ${PATCH("own.qcow2", 79, "01")}`,
    );
    const here = await examine(cwd, ["own.qcow2"]);
    const kept = here.findings.find(({ code }) => code === "dirty-bit");
    expect(kept).toMatchObject({
      command: null,
      fixable: false,
      text: expect.stringContaining("nothing changes it but"),
    });
    // From elsewhere too: the workspace that a file lies in is looked for.
    const there = await examine("/", ["--fix", `${cwd}/own.qcow2`]);
    expect(there.findings.find(({ code }) => code === "dirty-bit")).toEqual(kept);
    await runScript(
      cwd,
      `${PATCH("own.qcow2", 79, "00")}; imgtx snapshot vda --name two; 2 days ago, imgtx freeze vda`,
    );
    const [image = ""] = readdirSync(cwd).filter((name) => name.includes("two"));
    expect((await examine("/", [`${cwd}/${image}`])).findings.map(({ code }) => code)).toContain(
      "freeze-forgotten",
    );
  });
});

test("on a terminal of 40 columns texts are broken, and commands are not", async () => {
  const cwd = makeFolder("on a disk");
  shell(cwd, `${BASE}; ${OVER("o.qcow2", '"$PWD/base.qcow2"')}`);
  const { stdout } = await runCli(["doctor", "."], { cwd, terminal: 40, env: { NO_COLOR: "1" } });
  const lines = stdout.split("\n");
  expect(lines).toContain(`  $ imgtx img rebase -u -b base.qcow2 -F qcow2 ${cwd}/o.qcow2`);
  for (const line of lines) if (!/^ {2}\$|"\//.test(line)) expect(line.length).toBeLessThanOrEqual(40);
});

test("the man page has every code", () => {
  const page = readFileSync(`${TOP}/man/imgtx-doctor.1`, "utf8");
  const told = [...page.matchAll(/^\.It Ql (\S+)$/gm)].map(([, code]) => code);
  expect(told).toEqual(expect.arrayContaining(Object.keys(FINDINGS)));
  expect(told).toHaveLength(Object.keys(FINDINGS).length);
});
