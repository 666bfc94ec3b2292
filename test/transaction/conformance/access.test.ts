// Who may open what a command makes: no more and no fewer than could open what it stands for.

import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, readdirSync, statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const ACL = "system.posix_acl_access";
/** user::rw-, user:4711:rw-, group::---, mask::rw-, other::--- */
const GUESTS_ALONE = Buffer.from(
  "02000000" +
    "01000600ffffffff" +
    "0200060067120000" +
    "04000000ffffffff" +
    "10000600ffffffff" +
    "20000000ffffffff",
  "hex",
);

async function setAcl(path: string, acl: Uint8Array): Promise<void> {
  const file = await makeNodeStorage().openFile(path, "write");
  expect(await file.setAttribute(ACL, acl)).toBe(true);
  await file.close();
}

async function aclOf(path: string): Promise<Uint8Array | undefined> {
  return await makeNodeStorage().readAttribute(path, ACL);
}

function modeOf(path: string): number {
  return statSync(path).mode & 0o777;
}

/** Folders of the view and above. */
function viewFolders(bench: Workbench): string[] {
  const views = bench.at(".imgtx/view");
  const below = readdirSync(views, { recursive: true, withFileTypes: true }).filter((one) =>
    one.isDirectory(),
  );
  return [bench.at(".imgtx"), views, ...below.map((one) => `${one.parentPath}/${one.name}`)];
}

describe("an image with an ACL", () => {
  test("hands it on to its overlay, and the group gets nothing of the mask", async () => {
    const bench = await makeWorkbench();
    chmodSync(bench.at("a.qcow2"), 0o600);
    await setAcl(bench.at("a.qcow2"), GUESTS_ALONE);
    expect(modeOf(bench.at("a.qcow2"))).toBe(0o660);
    await bench.snapshot({ vda: "a1.qcow2" });
    expect(await aclOf(bench.at("a1.qcow2"))).toEqual(await aclOf(bench.at("a.qcow2")));
    expect(modeOf(bench.at("a1.qcow2"))).toBe(0o660);
  });

  oracle("setfacl").test(
    "and none is handed on where the image has none, though the folder gives one to new files",
    async () => {
      const bench = await makeWorkbench();
      execFileSync("setfacl", ["-d", "-m", "u:4711:rw", bench.root]);
      chmodSync(bench.at("a.qcow2"), 0o640);
      await bench.snapshot({ vda: "a1.qcow2" });
      expect(await aclOf(bench.at("a1.qcow2"))).toBeUndefined();
      expect(modeOf(bench.at("a1.qcow2"))).toBe(0o640);
    },
  );
});

describe("under a umask that closes all to others", () => {
  async function withUmask<T>(mask: number, work: () => Promise<T>): Promise<T> {
    const before = process.umask(mask);
    try {
      return await work();
    } finally {
      process.umask(before);
    }
  }

  test("the view is as open as before, and the table and the history can be read by whom they could", async () => {
    const bench = await makeWorkbench();
    chmodSync(bench.at("a.qcow2"), 0o664);
    await withUmask(0o077, async () => await bench.snapshot({ vda: "a1.qcow2" }));
    for (const folder of viewFolders(bench)) expect(modeOf(folder), folder).toBe(0o755);
    expect(modeOf(bench.at("a1.qcow2"))).toBe(0o664);
    expect(modeOf(bench.at(".imgtx/table.json"))).toBe(0o644);
    expect(modeOf(bench.at(".imgtx/history/000003.json"))).toBe(0o644);
  });

  test("a workspace that is made lets guests through to its view, and keeps its table to itself", async () => {
    const bench = await withUmask(0o077, async () => await makeWorkbench());
    for (const folder of viewFolders(bench)) expect(modeOf(folder), folder).toBe(0o755);
    expect(modeOf(bench.at(".imgtx/table.json"))).toBe(0o600);
    await bench.snapshot({ vda: "a1.qcow2" });
    expect(modeOf(bench.at(".imgtx/table.json"))).toBe(0o600);
  });
});

describe("the lock", () => {
  test("can be opened by its owner alone, also where an older imgtx made it", async () => {
    const bench = await makeWorkbench();
    expect(modeOf(bench.at(".imgtx/lock"))).toBe(0o600);
    chmodSync(bench.at(".imgtx/lock"), 0o644);
    await bench.snapshot({ vda: "a1.qcow2" });
    expect(modeOf(bench.at(".imgtx/lock"))).toBe(0o600);
  });
});

oracle("root").test("root makes an overlay in the image's group with the bits of that group", async () => {
  const bench = await makeWorkbench();
  chownSync(bench.at("a.qcow2"), 1234, 2345);
  chmodSync(bench.at("a.qcow2"), 0o660);
  await bench.snapshot({ vda: "a1.qcow2" });
  expect(statSync(bench.at("a1.qcow2"))).toMatchObject({ uid: 1234, gid: 2345 });
  expect(modeOf(bench.at("a1.qcow2"))).toBe(0o660);
});
