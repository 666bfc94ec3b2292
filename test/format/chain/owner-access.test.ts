// What a user could do with a file that is not the caller's.

import { chmodSync, chownSync, mkdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { openChain } from "../../../src/format/index.ts";
import { decodeAcl, judge } from "../../../src/format/chain/owner-access.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const READ = 4;
const FILE = { mode: 0o640, ownerId: 1000, groupId: 100 };

/** As the kernel stores it: [tag, bits, id] each. */
function aclOf(...entries: readonly (readonly [tag: number, bits: number, id?: number])[]): Uint8Array {
  const bytes = new Uint8Array(4 + 8 * entries.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 2, true);
  for (const [index, [tag, bits, id = 0xffffffff]] of entries.entries()) {
    view.setUint16(4 + 8 * index, tag, true);
    view.setUint16(6 + 8 * index, bits, true);
    view.setUint32(8 + 8 * index, id, true);
  }
  return bytes;
}

describe("a user may read a file", () => {
  test.each([
    ["as its owner", { id: 1000, groups: [] }, FILE, true],
    ["as its owner, whose own bits say no", { id: 1000, groups: [100] }, { ...FILE, mode: 0o044 }, false],
    ["in its group", { id: 7, groups: [5, 100] }, FILE, true],
    [
      "in its group, which has less than all others",
      { id: 7, groups: [100] },
      { ...FILE, mode: 0o604 },
      false,
    ],
    ["as one of all others", { id: 7, groups: [5] }, { ...FILE, mode: 0o604 }, true],
    ["as one of others, who may not", { id: 7, groups: [5] }, FILE, false],
    ["as root", { id: 0, groups: [] }, { ...FILE, mode: 0 }, true],
  ])("%s", (_, user, stat, expected) => {
    expect(judge(user, stat, undefined, READ)).toBe(expected);
  });

  const acl = decodeAcl(
    aclOf([0x01, 6], [0x02, 6, 2001], [0x02, 0, 2002], [0x04, 0], [0x08, 4, 300], [0x10, 4], [0x20, 0]),
  );
  test.each([
    ["named by an ACL", { id: 2001, groups: [] }, true],
    ["named by an ACL that gives nothing, though in a group that may", { id: 2002, groups: [300] }, false],
    ["in a group that an ACL names", { id: 9, groups: [300] }, true],
    ["in the owning group, which the ACL gives nothing", { id: 9, groups: [100] }, false],
    ["that an ACL does not know", { id: 9, groups: [] }, false],
  ])("%s", (_, user, expected) => {
    expect(judge(user, { ...FILE, mode: 0o640 }, acl, READ)).toBe(expected);
  });

  test("and no more than the ACL's mask lets through", () => {
    const masked = decodeAcl(aclOf([0x01, 6], [0x02, 6, 2001], [0x04, 6], [0x10, 0], [0x20, 0]));
    expect(judge({ id: 2001, groups: [] }, FILE, masked, READ)).toBe(false);
    expect(judge({ id: 9, groups: [100] }, FILE, masked, READ)).toBe(false);
  });
});

describe("root opens a backing image for the user whose image names it", () => {
  const TENANT = 4711;

  /** tenant/d.qcow2 over other/disk.qcow2, and perhaps a layer of the tenant's between. */
  function setTheScene(): { folder: string; open: (allowPaths?: readonly string[]) => Promise<void> } {
    const folder = makeFolder();
    const bench = new Workbench(folder);
    mkdirSync(`${folder}/other`, { mode: 0o755 });
    bench.makeQcow2("other/disk.qcow2", 1);
    bench.makeQcow2("tenant/d.qcow2", 2, { name: `${folder}/other/disk.qcow2`, format: "qcow2" });
    chownSync(`${folder}/tenant/d.qcow2`, TENANT, TENANT);
    const open = async (allowPaths: readonly string[] = []): Promise<void> => {
      const gate = { workspaceRoot: folder, allowPaths, currentFolder: "/" };
      const chain = await openChain(makeNodeStorage(), `${folder}/tenant/d.qcow2`, { format: "qcow2", gate });
      await chain.close();
    };
    return { folder, open };
  }

  oracle("root").test("where that user could read it", async () => {
    const { open } = setTheScene();
    await open();
  });

  oracle("root").test.each([
    ["the image itself", "other/disk.qcow2", 0o600],
    ["the folder that it is in", "other", 0o700],
  ] as const)("and not where %s is closed to that user, unless it is allowed", async (_, path, mode) => {
    const { folder, open } = setTheScene();
    chmodSync(`${folder}/${path}`, mode);
    const failure = await failureOf(async () => {
      await open();
    });
    expect(failure).toMatchObject({ code: "E_OUTSIDE", exitCode: 14, image: `${folder}/tenant/d.qcow2` });
    expect(failure.hint).toContain(`--allow-path ${folder}/other/disk.qcow2`);
    await open([`${folder}/other`]);
    await open([`${folder}/other/disk.qcow2`]);
  });

  oracle("root").test("also through an image between that belongs to somebody who may read it", async () => {
    const { folder, open } = setTheScene();
    const bench = new Workbench(folder);
    bench.makeQcow2("other/base.qcow2", 5);
    bench.makeQcow2("other/disk.qcow2", 1, { name: "base.qcow2", format: "qcow2" });
    await open();
    chmodSync(`${folder}/other/base.qcow2`, 0o600);
    const failure = await failureOf(async () => {
      await open();
    });
    expect(failure.code).toBe("E_OUTSIDE");
  });
});
