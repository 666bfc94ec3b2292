// imgtx report: one page that is whole in itself, whatever names it is about; written as any other target.

import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { runScript } from "../../helpers/cli/scripts.ts";
import { runCli } from "../../helpers/cli/harness.ts";
import { failAt } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";

const HOSTILE = `<img src=x onerror="alert(1)">&'.qcow2`;

async function makeDisks(): Promise<string> {
  const cwd = makeFolder();
  const bytes = sampleQcow2({ virtualSizeBytes: 65_536, dataClusters: [0, 1, 15], seed: 1 });
  writeFileSync(`${cwd}/${HOSTILE}`, bytes);
  writeFileSync(`${cwd}/orphan<script>.qcow2`, bytes);
  expect((await runCli(["device", "add", "vda", HOSTILE], { cwd })).status).toBe(0);
  const words = ["snapshot-group", "--all", "--name", "nightly", "-m", "<script>alert(2)</script>"];
  expect((await runCli(words, { cwd })).status).toBe(0);
  return cwd;
}

test("the page has pictures, findings and history, escapes all names, and loads nothing", async () => {
  const cwd = await makeDisks();
  expect(await runCli(["report", "disks.html"], { cwd })).toEqual({
    status: 0,
    stdout: expect.stringMatching(/^Wrote .*disks\.html, with \d findings?\.\n$/),
    stderr: "",
  });
  const page = readFileSync(`${cwd}/disks.html`, "utf8");
  expect(page).toContain("Content-Security-Policy");
  expect(page).not.toMatch(/<script|<img|<link|<iframe|\bhref=|\bsrc="/i);
  expect(page).not.toMatch(/https?:/);
  // Each tag is one of the page's own: what a name has of them is text.
  const own =
    "html head meta title style body h1 h2 p ul li span pre table tr th td div svg g rect text path".split(
      " ",
    );
  const tags = new Set([...page.matchAll(/<\/?([a-z]\w*)/gi)].map(([, tag = ""]) => tag));
  expect([...tags].filter((tag) => !own.includes(tag))).toEqual([]);
  expect(page).toContain("&lt;script&gt;alert(2)&lt;/script&gt;");
  expect(page).toContain("orphan");
  expect(page.match(/<svg/g)?.length).toBe(3);
  expect(page).toContain("snapshot-group");
  expect(page).toContain("prefers-color-scheme: dark");
  expect(page).toContain("@media print");
});

test("what doctor has read of the workspace is not read again", async () => {
  const cwd = await makeDisks();
  const real = makeNodeStorage();
  let looks = 0;
  const storage: Storage = {
    ...real,
    findAllHolders: async (files) => {
      looks += 1;
      return await real.findAllHolders(files);
    },
  };
  expect((await runCli(["report", "disks.html"], { cwd, storage })).status).toBe(0);
  expect(looks).toBe(1);
});

test("a file that is there is left alone, but for --overwrite; a dry run and a full disk leave nothing", async () => {
  const cwd = await makeDisks();
  const mine = "<!doctype html>mine";
  writeFileSync(`${cwd}/mine.html`, mine);
  const refused = await runCli(["report", "mine.html"], { cwd });
  expect([refused.status, refused.stdout]).toEqual([14, ""]);
  expect(readFileSync(`${cwd}/mine.html`, "utf8")).toBe(mine);
  const before = readdirSync(cwd);
  expect((await runCli(["report", "new.html", "--dry-run"], { cwd })).status).toBe(0);
  const full = failAt(
    makeNodeStorage(),
    (call) => call.purpose === "report",
    new ImgtxError("E_NO_SPACE", "full"),
  );
  const failed = await runCli(["report", "--overwrite", "mine.html"], { cwd, storage: full });
  expect(failed.status).toBe(13);
  expect(readFileSync(`${cwd}/mine.html`, "utf8")).toBe(mine);
  expect(readdirSync(cwd)).toEqual(before);
  expect((await runCli(["report", "--overwrite", "mine.html"], { cwd })).status).toBe(0);
  expect(statSync(`${cwd}/mine.html`).size).toBeGreaterThan(1000);
});

test("what is no page is never overwritten, and a folder that is missing is named as such", async () => {
  const cwd = await makeDisks();
  const disk = `${cwd}/orphan<script>.qcow2`;
  const before = readFileSync(disk);
  const refused = await runCli(["report", "--overwrite", disk], { cwd });
  expect([refused.status, refused.stdout]).toEqual([14, ""]);
  expect(refused.stderr).toContain("the target exists, and is no page of HTML");
  expect(readFileSync(disk).equals(before)).toBe(true);
  const { status, stderr } = await runCli(["report", "nowhere/disks.html"], { cwd });
  expect(status).toBe(14);
  expect(stderr).toContain(`there is no folder '${cwd}/nowhere'`);
  // The name that it is written by first is nobody's who reads of it.
  const storage = makeNodeStorage();
  const closed: Storage = {
    ...storage,
    createFile: async (path) => {
      const denied = new ImgtxError("E_NO_PERMISSION", `Could not create '${path}'`, { image: path });
      return await Promise.reject(denied);
    },
  };
  const denied = await runCli(["report", "disks.html"], { cwd, storage: closed });
  expect(denied.stderr).toContain(`Could not create '${cwd}/disks.html'\n  at: ${cwd}/disks.html\n`);
});

test("tree --map and img map --visual draw what each image has data for", async () => {
  const cwd = await makeDisks();
  const tree = await runCli(["tree", "--map"], { cwd });
  expect(tree.stdout).toContain(`    ####${".".repeat(26)}##\n`);
  const json = JSON.parse((await runCli(["tree", "--map", "--json"], { cwd })).stdout) as {
    images: { map: number[] }[];
  };
  expect(
    json.images.map(({ map }) => map.filter((share) => share === 1).length).toSorted((a, b) => a - b),
  ).toEqual([0, 6]);
  await runScript(cwd, "imgtx img create -q -f qcow2 a.qcow2 1M");
  const [name = ""] = readdirSync(cwd).filter((one) => one.includes("nightly"));
  const { stdout } = await runCli(["img", "map", "--visual", name], { cwd, env: { LC_ALL: "C.UTF-8" } });
  expect(stdout.split("\n").map((line) => line.slice(25))).toEqual([
    "·".repeat(64),
    `${"█".repeat(8)}${"·".repeat(52)}${"█".repeat(4)}`,
    "",
  ]);
});
