// The names of files on the command line that lead nowhere, or elsewhere: a folder is never taken for a file,
// and whoever meets a missing file, a closed one or a folder is told what to look at.

import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ImgtxError } from "../../src/errors/index.ts";
import { COMMAND_TABLE } from "../../src/cli/command-table.ts";
import { failWith, runCli, type Result } from "../helpers/cli/harness.ts";

let folder = "";

beforeAll(async () => {
  folder = await realpath(await mkdtemp(`${tmpdir()}/imgtx-names-`));
  await mkdir(`${folder}/d`);
  await mkdir(`${folder}/it's full`);
  await writeFile(`${folder}/plain`, "x".repeat(512));
  const made = await imgtx("img create -q -f qcow2 a.qcow2 1M");
  expect(made).toMatchObject({ status: 0, stderr: "" });
  expect(await imgtx("device add vda a.qcow2")).toMatchObject({ status: 0, stderr: "" });
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

function imgtx(line: string, ...more: string[]): Promise<Result> {
  return runCli([...line.split(" "), ...more], { cwd: folder });
}

// Each command that makes or takes a file, with FOLDER in its place.
const WITH_FOLDER = [
  "device add vdb FOLDER",
  "snapshot vda FOLDER",
  "snapshot-group vda=FOLDER",
  "mirror vda FOLDER",
  "mirror vda=FOLDER",
  "migrate vda FOLDER --new-source n.qcow2",
  "migrate vda n.qcow2 --new-source FOLDER",
  "reopen vda FOLDER",
  "rollback vda=FOLDER --to 1",
  "merge vda --into FOLDER",
  "pull vda --base FOLDER",
  "rebase vda --onto FOLDER",
  "bitmap merge vda two --from one --source-file FOLDER",
  "repair vda --keep-undo FOLDER",
  "repair vda --undo FOLDER",
  "report FOLDER",
  "txn run FOLDER",
];
const IMG_WITH_FOLDER = [
  "img create -f qcow2 FOLDER 1M",
  "img create -f qcow2 -o data_file=FOLDER n.qcow2 1M",
  "img convert -O qcow2 a.qcow2 FOLDER",
  "img convert -n -O qcow2 a.qcow2 FOLDER",
  "img dd if=a.qcow2 of=FOLDER",
  "img info FOLDER",
  "img check FOLDER",
  "img map FOLDER",
  "img measure -O qcow2 FOLDER",
  "img compare a.qcow2 FOLDER",
  "img amend -o lazy_refcounts=on FOLDER",
  "img bench FOLDER",
  "img bitmap --add FOLDER one",
  "img commit FOLDER",
  "img rebase -b a.qcow2 -F qcow2 FOLDER",
  "img resize FOLDER 2M",
  "img snapshot -l FOLDER",
];

describe.each([...WITH_FOLDER, ...IMG_WITH_FOLDER])("imgtx %s", (line) => {
  test.each(["new/", "d/", "plain/", "d/.", "new/..", "."])(
    "makes and takes no file by the name %s",
    async (name) => {
      const before = await readdir(folder);
      const result = await imgtx(line.replace("FOLDER", name));
      expect(result.status).toBe(line.startsWith("img compare") ? 2 : line.startsWith("img") ? 1 : 14);
      expect(result.stderr).toContain(`'${name}'`);
      expect(result.stderr).toMatch(/hint: name a file in it, such as '.*\/disk\.qcow2'/);
      expect(await readdir(folder)).toEqual(before);
    },
  );
});

test("every command that takes a file is among those tried", async () => {
  const takesFile: string[] = [];
  for (const { path, section, load } of COMMAND_TABLE) {
    const { definition } = await load();
    const completions = [
      ...definition.arguments.map(({ completes }) => completes),
      ...definition.options.map(({ value }) => value?.completes),
    ];
    if (section !== "hidden" && completions.some((each) => each === "file" || each === "device-file")) {
      takesFile.push(path.join(" "));
    }
  }
  const tried = [...WITH_FOLDER, ...IMG_WITH_FOLDER];
  const missing = takesFile.filter((name) => !tried.some((line) => line.startsWith(`${name} `)));
  // Two take folders too; the others mean the command that they run.
  expect(missing.sort()).toEqual(["device provision", "device trust", "doctor", "freeze", "txn exec"]);
});

test("what is no folder is not made a workspace, and nobody is told to change its rights", async () => {
  await symlink("/dev/null", `${folder}/null`);
  for (const name of ["plain", "null"]) {
    const { status, stderr } = await imgtx("init", name);
    expect(status).toBe(14);
    expect(stderr).toContain(`error: '${folder}/${name}' is not a folder\n`);
    expect(stderr).toContain("hint: name a folder that is there, or make it\n");
  }
});

test("what is neither a folder nor a file is not trusted", async () => {
  const { status, stderr } = await imgtx("device trust vda /dev/null");
  expect(status).toBe(14);
  expect(stderr).toContain("error: vda: what is to be trusted is neither a folder nor a file\n");
});

test("a batch in a pipe, as <(…) makes one, is to be read from stdin, which the hint says", async () => {
  execFileSync("mkfifo", [`${folder}/pipe`]);
  const { status, stderr } = await imgtx("txn run pipe");
  expect(status).toBe(14);
  expect(stderr).toContain("it is a FIFO, not a regular file\n");
  expect(stderr).toContain("`imgtx txn run - < BATCH`");
});

test("a name that begins with a dash is none of an option in a hint", async () => {
  const { stderr } = await imgtx("img info --", "-it's gone");
  expect(pasteHint({ status: 1, stdout: "", stderr })).toContain("a.qcow2");
  await writeFile(`${folder}/-some image`, "QFI\u00fb");
  const cut = await imgtx("img check -f qcow2 --", "-some image");
  expect(cut.stderr).not.toMatch(/hint: .*'-some/);
});

test("a folder that stands where a file is to be made is called one", async () => {
  for (const line of ["snapshot vda d", "mirror vda d", "migrate vda d --new-source n"]) {
    const { status, stderr } = await imgtx(line);
    expect(status).toBe(14);
    expect(stderr).toContain("error: vda: the target is a folder\n");
    expect(stderr).toContain(`hint: name a file in it, such as '${folder}/d/vda.qcow2'\n`);
  }
});

/** What the hint asks to be looked at, which must work when it is pasted. */
function pasteHint({ stderr }: Result): string {
  const command = /hint: .*`([^`]+)`/.exec(stderr)?.[1];
  if (command === undefined) throw new Error(`no command in the hint of: ${stderr}`);
  return execFileSync("sh", ["-c", command], { cwd: folder, encoding: "utf8", stdio: "pipe" });
}

describe("the hint", () => {
  test.each(["reopen vda", "device add vdc", "img info", "img check", "img map", "txn run"])(
    "of a missing file in `imgtx %s` shows what is there",
    async (line) => {
      const result = await imgtx(line, "gone.qcow2");
      expect(result.stderr).toContain("No such file or directory");
      expect(pasteHint(result)).toContain("a.qcow2");
    },
  );

  test.each(["reopen vda", "device add vdc", "img info"])(
    "of a folder in place of a file in `imgtx %s` shows what it is",
    async (line) => {
      expect(pasteHint(await imgtx(line, "it's full"))).toMatch(/^ *drwx\S+ .*it's full$/m);
    },
  );

  test("of a file that the user may not open shows who may", async () => {
    const denied = new ImgtxError("E_NO_PERMISSION", "Permission denied", { image: `${folder}/plain` });
    expect(pasteHint(await failWith(denied))).toMatch(/^ *-rw\S+ .*plain$/m);
    const json = await failWith(denied, ["--json"]);
    expect(JSON.parse(json.stderr)).toMatchObject({ error: { hint: expect.stringContaining("namei -l") } });
  });

  test("of a read-only file system shows which one it is", async () => {
    const denied = new ImgtxError("E_READ_ONLY", "Read-only file system", { image: `${folder}/not made` });
    expect((await failWith(denied)).stderr).toContain(`\`findmnt -T ${folder}\``);
    expect(pasteHint(await failWith(denied))).toContain("TARGET");
  });

  test("of one's own is kept", async () => {
    const own = new ImgtxError("E_NOT_FOUND", "gone", { image: `${folder}/x`, hint: "look behind you" });
    expect((await failWith(own)).stderr).toContain("hint: look behind you\n");
  });

  test("is left out under the name of qemu-img", async () => {
    const { stderr } = await runCli(["info", "gone"], { cwd: folder, program: "qemu-img" });
    expect(stderr).not.toContain("hint:");
  });
});

test("what is wrong with a name, or with an image below, is said once, as the user gave the name", async () => {
  for (const line of ["img check d/", "img compare plain d/"]) {
    expect(await imgtx(line)).toMatchObject({
      stderr:
        "imgtx: Could not open 'd/': it names a folder, not a regular file\n" +
        "  hint: name a file in it, such as 'd/disk.qcow2', or leave out the '/' at its end\n",
    });
  }
  expect(await imgtx("img check", "")).toMatchObject({
    status: 1,
    stderr: "imgtx: Could not open '': No such file or directory\n  hint: the name is empty\n",
  });
  expect(await imgtx("img create -f qcow2", "", "1M")).toMatchObject({
    stderr: "imgtx: : Could not create '': No such file or directory\n  hint: the name is empty\n",
  });
  await writeFile(`${folder}/short`, Buffer.concat([Buffer.from("QFI\xfb", "latin1"), Buffer.alloc(8)]));
  const { stderr } = await imgtx("img create -f qcow2 -b short -F qcow2 new.qcow2");
  expect(stderr.match(/offset 0x/g)).toHaveLength(1);
  expect(await imgtx("doctor", "")).toMatchObject({
    status: 64,
    stderr: "error: the name of a target is empty\n  hint: see `imgtx doctor --help`\n",
  });
});

test("no file is made below another file, or among the devices, and nothing is left to be undone", async () => {
  for (const line of [
    "snapshot vda plain/x",
    "mirror vda plain/x",
    "migrate vda n.qcow2 --new-source plain/x",
  ]) {
    expect({ line, ...(await imgtx(line)) }).toMatchObject({
      line,
      status: 14,
      stderr: expect.stringContaining(`'${folder}/plain' is not a folder`) as string,
    });
  }
  expect((await imgtx("txn list -q")).stdout).toBe("");
  const before = await readdir(`${folder}/devices`);
  for (const line of [
    "img create -f qcow2 devices/x 1M",
    "img convert -O raw a.qcow2 devices/x",
    "img dd if=a.qcow2 of=devices/x",
    "report devices/x.html",
  ]) {
    const { status, stderr } = await imgtx(line);
    expect({ line, status }).toEqual({ line, status: line.startsWith("img") ? 1 : 14 });
    expect(stderr).toContain("it is in a folder that imgtx keeps its own files in, and replaces");
  }
  expect(await readdir(`${folder}/devices`)).toEqual(before);
});
