// What a transaction changes in an image, keeps as a snapshot, and has its device leave: the record has the image as the
// change leaves it, wherever a command dies, and not what somebody writes to it afterwards.

import { describe, expect } from "vitest";
import { type ActionRequest, forceCommit } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runWell } from "../../helpers/qemu-programs.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { writeGuest } from "../../helpers/transaction/mirroring.ts";
import { pull, rebase } from "../../helpers/transaction/new-backings.ts";
import { makeWorkbench, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";
import { untilSettled } from "../../helpers/until-settled.ts";

const qemu = oracle("qemu-img", "qemu-io");

const apply: ActionRequest = { kind: "internal-snapshot-apply", devices: ["vda"], snapshot: "one" };
const snapshot = (bench: Workbench): ActionRequest => bench.snapshotRequest({ vda: "n.qcow2" });
const reopen = (bench: Workbench): ActionRequest => ({
  kind: "reopen",
  device: "vda",
  file: bench.at("other.qcow2"),
  format: "qcow2",
  force: true,
});
const create: ActionRequest = { kind: "internal-snapshot-create", devices: ["vda"], snapshot: "two" };

const remove: ActionRequest = { kind: "internal-snapshot-delete", devices: ["vda"], snapshot: "one" };
const grow: ActionRequest = {
  kind: "resize",
  device: "vda",
  sizeBytes: 2 ** 20,
  isRelative: false,
  shrink: false,
  force: false,
};

/** One whose device vda was written to since an internal snapshot. was: what it shows once more when that is gone back to. */
async function makeBench(image: string): Promise<{ readonly bench: Workbench; readonly was: string }> {
  const bench = await makeWorkbench();
  runWell("qemu-img", "create", "-q", "-f", "qcow2", bench.at("other.qcow2"), "1M");
  if (image === "old.qcow2") {
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", bench.at(image), "192k");
    await bench.remove("vda");
    await bench.add("vda", image);
  }
  runWell("qemu-img", "snapshot", "-c", "one", bench.at(image));
  const was = (await bench.content())["vda"] ?? "";
  writeGuest(bench.at(image), "qcow2", "write -P 5 0 64k");
  await untilSettled(bench.at(image));
  return { bench, was };
}

async function expectBack({ bench, was }: Awaited<ReturnType<typeof makeBench>>): Promise<void> {
  await bench.rollback("1");
  expect((await bench.content())["vda"]).toBe(was);
}

describe("a snapshot of what its transaction has changed, and its device leaves, is gone back to", () => {
  qemu.test.each<readonly [string, string, (bench: Workbench) => readonly ActionRequest[]]>([
    ["a pull", "a.qcow2", (bench) => [apply, snapshot(bench), pull(["vda"])]],
    [
      "another change, and a rebase",
      "a.qcow2",
      (bench) => [apply, create, snapshot(bench), rebase("vda", bench.at("base.raw"), { format: "raw" })],
    ],
    ["reopen from an old version", "old.qcow2", (bench) => [apply, snapshot(bench), reopen(bench)]],
  ])("after %s", async (_, image, requests) => {
    const made = await makeBench(image);
    await made.bench.run(requests(made.bench));
    await expectBack(made);
  });
});

const isJournal = ({ path }: Call): boolean => /\/\.imgtx\/journal/.test(path);
const isTable = ({ name, path }: Call): boolean => name === "rename" && path.endsWith("/table.json");
const isLog = (purpose: string) => (call: Call) => call.name === "file.flush" && call.purpose === purpose;

/** The deaths, with what is said: whether anybody wrote to the image can't be told at all of them. */
const DEATHS: readonly (readonly [string, string, (call: Call, image: string) => boolean, boolean])[] = [
  ["before the table moves", "a.qcow2", isTable, false],
  [
    "before the image is changed",
    "a.qcow2",
    ({ name, path }, image) => name === "file.write" && path === image,
    false,
  ],
  [
    "before the image has its time",
    "a.qcow2",
    ({ name, path }, image) => name === "file.setModified" && path === image,
    true,
  ],
  ["before that is durable", "a.qcow2", isLog("redo log: fence lifted"), false],
  ["before the journal says so", "a.qcow2", isLog("applied"), false],
  ["before the journal goes", "a.qcow2", (call) => call.name === "removeFile" && isJournal(call), false],
  [
    "before an image without a fence is changed",
    "old.qcow2",
    ({ name, path }, image) => name === "file.write" && path === image,
    false,
  ],
  [
    "before an image without a fence has its time",
    "old.qcow2",
    ({ name, path }, image) => name === "file.setModified" && path === image,
    true,
  ],
  ["before the journal says so of one without a fence", "old.qcow2", isLog("applied"), false],
];

/** Dies in the commit, after its mark, beside which the history gets a name. */
async function dieAt(
  { bench }: { readonly bench: Workbench },
  image: string,
  matches: (call: Call, image: string) => boolean,
  change = apply,
): Promise<void> {
  await bench.begin();
  await bench.run([change, snapshot(bench), reopen(bench)]);
  let isMarked = false;
  const dying = killAt(bench.storage, (call) => {
    if (isMarked && matches(call, bench.at(image))) return true;
    isMarked ||= call.purpose === "earlier generation's name";
    return false;
  });
  await expect(bench.through(dying).commit()).rejects.toThrow("killed");
}

describe("a commit that dies", () => {
  qemu.test.each(DEATHS)("%s leaves a snapshot that is gone back to", async (_, image, matches, isSaid) => {
    const made = await makeBench(image);
    await dieAt(made, image, matches);
    const [note] = (await made.bench.session()).recovered;
    expect(note?.did).toBe("finished");
    expect(note?.text.includes("can't be told")).toBe(isSaid);
    await expectBack(made);
  });

  qemu.test.each([
    ["after the journal says so", "a.qcow2", grow],
    ["after the journal says so", "old.qcow2", remove],
  ])("%s does not take for the snapshot's what is written to %s meanwhile", async (_, image, change) => {
    const made = await makeBench(image);
    await dieAt(made, image, isLog("renewed generation"), change);
    writeGuest(made.bench.at(image), "qcow2", "write -P 9 0 4k");
    expect((await made.bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    const failure = await failureOf(async () => await made.bench.rollback("1"));
    expect(failure).toMatchObject({ code: "E_CHANGED", message: /is not what it was: .*modified/ });
  });

  // What that takes away is left as it is then.
  qemu.test.each([apply, remove])(
    "before an image without a fence is changed waits where it was written to, which is not the snapshot's: $kind",
    async (change) => {
      const made = await makeBench("old.qcow2");
      const { bench } = made;
      await dieAt(made, "old.qcow2", ({ purpose }) => purpose === "next table's name", change);
      writeGuest(bench.at("old.qcow2"), "qcow2", "write -P 9 0 4k");
      const session = await bench.session();
      const [note] = session.recovered;
      expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_CHANGED" } });
      const lines: string[] = [];
      const onNotice = (line: string): void => void lines.push(line);
      await forceCommit(session, note?.transaction ?? "", { ...RUN_ALONE, onNotice });
      expect(lines.some((line) => line.includes("what a snapshot keeps of it has changed"))).toBe(
        change === remove,
      );
      const failure = await failureOf(async () => await bench.rollback("1"));
      expect(failure).toMatchObject({ code: "E_CHANGED", message: /is not what it was: .*modified/ });
    },
  );
});
