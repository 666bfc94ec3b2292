// Whoever is about to write to an image finds the workspace that needs it by what the image, or its folder, says: wherever that
// lies, and by whatever name. And what is set for that makes no snapshot count as changed.

import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { canSayWorkspaces } from "../../helpers/attributes.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { relocateWorkspace, type Outcome } from "../../../src/transaction/index.ts";
import { runImg } from "../../helpers/cli/against-qemu.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { mergeRequest } from "../../helpers/transaction/merging.ts";
import { makeWorkbench, RUN_ALONE, Workbench } from "../../helpers/transaction/workbench.ts";
import { untilSettled } from "../../helpers/until-settled.ts";

const NAME = "user.imgtx.workspaces";
const node = makeNodeStorage();
/** Two workspaces in folders of their own, and images beside both: top.qcow2 on base.qcow2. */
async function makePlace(): Promise<{ top: string; ours: Workbench; theirs: Workbench }> {
  const top = makeFolder();
  const [ours, theirs] = [new Workbench(`${top}/ours`), new Workbench(`${top}/theirs`)];
  for (const { root } of [ours, theirs]) mkdirSync(root);
  ours.makeQcow2(`${top}/images/base.qcow2`, 1);
  ours.makeQcow2(`${top}/images/top.qcow2`, 2, { name: "base.qcow2", format: "qcow2" });
  await untilSettled(`${top}/images/base.qcow2`, `${top}/images/top.qcow2`);
  return { top, ours, theirs };
}

const changedNs = (path: string): string => String(statSync(path, { bigint: true }).ctimeNs);
const notesOf = ({ actions }: Outcome): readonly string[] => actions.flatMap(({ notes }) => notes);

async function resize(image: string): Promise<{ status: number; stderr: string }> {
  const { status, stderr } = await runImg(makeFolder(), ["resize", image, "+1M"], { program: "imgtx" });
  return { status: status ?? -1, stderr };
}

describe.skipIf(!canSayWorkspaces)(
  "an image that a snapshot keeps, outside of the workspace's folder,",
  () => {
    test("is told of by its folder, by its inode under another name, and where it was moved to", async () => {
      const { top, ours } = await makePlace();
      await ours.add("vda", `${top}/images/top.qcow2`);
      await ours.snapshot({ vda: `${top}/images/over.qcow2` });
      await ours.snapshot({ vda: `${top}/images/last.qcow2` });
      const elsewhere = makeFolder();
      for (const name of ["base.qcow2", "top.qcow2", "over.qcow2"]) {
        const image = `${top}/images/${name}`;
        const before = readFileSync(image);
        const hard = `${elsewhere}/${name}`;
        linkSync(image, hard);
        for (const path of [image, hard]) {
          const { status, stderr } = await resize(path);
          expect({ path, status }).toEqual({ path, status: 1 });
          expect(stderr).toMatch(/snapshot \d of the workspace '.*\/ours' keeps it, of 'vda'/);
        }
        renameSync(image, `${elsewhere}/moved`);
        for (const path of [hard, `${elsewhere}/moved`]) expect((await resize(path)).status).toBe(1);
        renameSync(`${elsewhere}/moved`, image);
        expect(readFileSync(image).equals(before)).toBe(true);
      }
    });

    test("is what it was to its snapshot, and nothing is in doubt", async () => {
      const { top, ours } = await makePlace();
      await ours.add("vda", `${top}/images/top.qcow2`);
      await untilSettled(`${top}/images/top.qcow2`);
      await ours.snapshot({ vda: `${top}/images/over.qcow2` });
      const times = ["top", "base"].map((name) => changedNs(`${top}/images/${name}.qcow2`));
      expect(notesOf(await ours.rollback("1")).filter((note) => note.includes("can't be told"))).toEqual([]);
      await ours.snapshot({ vda: `${top}/images/next.qcow2` });
      expect(["top", "base"].map((name) => changedNs(`${top}/images/${name}.qcow2`))).toEqual(times);
    });

    test("is what it was where its commit was cut off after the mark, and recovery finished it", async () => {
      const { top, ours } = await makePlace();
      await ours.add("vda", `${top}/images/top.qcow2`);
      let isMarked = false;
      const dying = killAt(ours.storage, ({ name, path, purpose }) => {
        isMarked ||= purpose === "commit mark";
        return isMarked && name === "rename" && path.endsWith("/table.json");
      });
      const request = ours.through(dying).snapshot({ vda: `${top}/images/over.qcow2` });
      await expect(request).rejects.toThrow("killed");
      const [note] = (await ours.session()).recovered;
      expect(note).toMatchObject({ did: "finished" });
      expect(note?.text).not.toContain("can't be told");
    });

    test("is not touched by a dry run", async () => {
      const { top, ours } = await makePlace();
      await ours.add("vda", `${top}/images/top.qcow2`);
      const before = changedNs(`${top}/images/top.qcow2`);
      await ours.snapshot({ vda: `${top}/images/over.qcow2` }, {}, { dryRun: true, standalone: true });
      expect(changedNs(`${top}/images/top.qcow2`)).toBe(before);
      expect(await node.readAttribute(`${top}/images/top.qcow2`, NAME)).toBeUndefined();
    });

    test("is told of by its workspace where that has moved to, and is free when it is gone", async () => {
      const { top, ours } = await makePlace();
      await ours.add("vda", `${top}/images/top.qcow2`);
      await ours.snapshot({ vda: `${top}/images/over.qcow2` });
      mkdirSync(`${top}/new`);
      await relocateWorkspace(await ours.session(), `${top}/new`, { ...RUN_ALONE, safeWorkspaces: [] });
      const hard = `${makeFolder()}/base.qcow2`;
      linkSync(`${top}/new/base.qcow2`, hard);
      expect((await resize(hard)).stderr).toContain(`workspace '${top}/new' keeps it`);
      rmSync(`${top}/new/.imgtx`, { recursive: true });
      expect((await resize(hard)).status).toBe(0);
    });

    test("is not changed through what another workspace says of it, and its owner's snapshots stay free of doubt", async () => {
      const { top, ours, theirs } = await makePlace();
      const base = `${top}/images/base.qcow2`;
      await ours.add("vda", `${top}/images/top.qcow2`);
      await ours.snapshot({ vda: "over.qcow2" });
      const before = changedNs(base);
      theirs.makeQcow2("clone.qcow2", 5, { name: base, format: "qcow2" });
      await theirs.add("vdx", "clone.qcow2");
      await theirs.snapshot({ vdx: "x1.qcow2" });
      expect(changedNs(base)).toBe(before);
      // Which the folder of the base tells: theirs is nowhere above it.
      const into = mergeRequest(ours, ["vda"], { into: base });
      await ours.run({ kind: "snapshot-delete", snapshots: ["1"], devices: [], keepsImages: true });
      const failure = await failureOf(async () => await ours.run(into));
      expect(failure).toMatchObject({ code: "E_IN_USE", image: base });
      expect(failure.message).toContain(`snapshot 1 of the workspace '${theirs.root}' keeps it, of 'vdx'`);
    });
  },
);

describe.skipIf(!canSayWorkspaces)("an active layer of devices in two workspaces", () => {
  test("is told by both, as long as both are on it, and by the one that stays", async () => {
    const { top, ours, theirs } = await makePlace();
    const image = `${top}/images/top.qcow2`;
    const isOthers = (other: Workbench) =>
      expect.stringMatching(`top.qcow2 is the active layer of 'vd.' of the workspace '${other.root}' too`);
    await ours.add("vda", image);
    expect(notesOf(await theirs.add("vdx", image))).toContainEqual(isOthers(ours));
    expect(notesOf(await ours.snapshot({ vda: "a1.qcow2" }))).toContainEqual(isOthers(theirs));
    const kept = expect.stringMatching(
      `^snapshot 1 of the workspace '${ours.root}' keeps .*top.qcow2, of 'vda'`,
    );
    expect(notesOf(await theirs.snapshot({ vdx: "x1.qcow2" }))).toContainEqual(kept);
  });
});

test("where there are no such attributes, or they may not be set, all is done without them", async () => {
  const refuse = async (): Promise<never> => await Promise.reject(new Error("no attribute is to be set"));
  for (const setAttribute of [async () => false, refuse] satisfies Storage["setAttribute"][]) {
    const bench = await makeWorkbench();
    const storage = { ...bench.storage, setAttribute };
    if (setAttribute === refuse) {
      const own = Buffer.from(JSON.stringify([bench.root]));
      storage.readAttribute = async (_path, name) => (name === NAME ? own : undefined);
    }
    await bench.through(storage).snapshot({ vda: "a1.qcow2" });
    expect((await bench.images())["vda"]).toBe("a1.qcow2");
  }
});
