// What can't be taken back is asked for on a terminal, and there alone.

import { mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeOutcome, runCli, type RunSetting } from "../../helpers/cli/harness.ts";

let folder = "";

beforeAll(async () => {
  folder = await realpath(await mkdtemp(`${tmpdir()}/imgtx-confirm-`));
  for (const name of ["there", "mirror"]) await writeFile(`${folder}/${name}`, "somebody's");
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

const vda = { name: "vda", mirror: { image: "mirror" } };

/** Runs it with an engine that says what it was called for, and a terminal on which each question gets this answer. */
async function run(line: string, answer?: string) {
  const questions: string[] = [];
  const calls: string[] = [];
  const note = (name: string) => async () => {
    calls.push(name);
    return makeOutcome({ devices: [] });
  };
  const givenUp = {
    id: "7f3k2m9qa1",
    changed: true,
    record: "/r",
    what: "x",
    devices: [],
    left: [],
    generation: 1,
  };
  const devices = [{ ...vda, mirror: { image: `${folder}/mirror` } }];
  const engine = {
    runActions: note("run"),
    forceAbort: note("abort"),
    forceCommit: note("commit"),
    abortTransaction: note("abort"),
    giveUp: async () => {
      calls.push("give up");
      return givenUp;
    },
    describeDevices: async () => ({ generation: 1, devices }),
  } as unknown as NonNullable<RunSetting["engine"]>;
  const ask = async (question: string): Promise<string> => {
    questions.push(question);
    return answer ?? "";
  };
  const setting = { engine, cwd: folder, ...(answer !== undefined && { ask }) };
  return { ...(await runCli(line.split(" "), setting)), questions, calls };
}

// Their questions name the transaction, or what is lost: `there`.
const FINAL = [
  "recover --give-up 7f3k2m9qa1",
  "txn abort --force 7f3k2m9qa1",
  "txn commit --force 7f3k2m9qa1",
  "mirror vda there --reuse",
  "mirror vda=there --reuse",
  "snapshot-delete there",
  "internal-snapshot apply vda vdb there",
  "internal-snapshot delete vda there",
  "snapshot vda there --overwrite",
  "mirror vda there --overwrite",
  "migrate vda there --new-source new --overwrite",
  "snapshot-group vda=there --overwrite",
];

describe.each(FINAL)("imgtx %s", (line) => {
  test.each(["", "n", "no", "yesterday", "\u001b[A"])(
    "does nothing on a terminal whose answer is '%s'",
    async (answer) => {
      const { status, stderr, questions, calls } = await run(line, answer);
      expect(questions).toEqual([
        expect.stringMatching(/^imgtx: .*(7f3k2m9qa1|there).*\. Go on\? \[y\/N\] $/),
      ]);
      expect(calls).toEqual([]);
      expect(status).toBe(14);
      expect(stderr).toContain(
        "error: nothing was done: the answer was not yes\n  No disk was changed.\n  hint: ",
      );
    },
  );

  test.each(["y", "Yes", " YES "])("does it on a terminal whose answer is '%s'", async (answer) => {
    const { status, questions, calls } = await run(line, answer);
    expect({ status, asked: questions.length, done: calls.length }).toEqual({ status: 0, asked: 1, done: 1 });
  });

  test.each(["--yes", "-y", "--dry-run"])("asks nothing with %s", async (option) => {
    const { questions, calls } = await run(`${line} ${option}`, "n");
    expect({ asked: questions.length, done: calls.length }).toEqual({ asked: 0, done: 1 });
  });

  test("is the answer in itself where nobody sits at a terminal", async () => {
    const { status, calls } = await run(line);
    expect({ status, done: calls.length }).toEqual({ status: 0, done: 1 });
  });
});

test("imgtx resize --shrink --force asks before it cuts data off", async () => {
  const { questions, calls } = await run("resize vda 1M --shrink --force", "n");
  expect({ questions, calls }).toEqual({
    questions: ["imgtx: What 'vda' holds past its new end is lost. Go on? [y/N] "],
    calls: [],
  });
});

test.each([
  "mirror vda",
  "mirror vda mirror --reuse",
  "mirror vda ../IT/mirror --reuse",
  "mirror vda new --reuse",
  "mirror vda there",
  "resize vda 1M --shrink",
  "snapshot vda there",
  "internal-snapshot create vda there",
  "txn abort 7f3k2m9qa1",
  "rollback",
  "device remove vda",
])("imgtx %s takes nothing away for good, and asks nothing", async (line) => {
  const { questions } = await run(line.replace("IT", folder.split("/").at(-1) ?? ""), "n");
  expect(questions).toEqual([]);
});

test("a device that is reopened on its own image is not told to be on another", async () => {
  await writeFile(`${folder}/own.raw`, Buffer.alloc(65_536));
  const imgtx = async (line: string) => await runCli(line.split(" "), { cwd: folder });
  await imgtx("device add vda own.raw --format raw");
  const { status, stdout } = await imgtx("reopen vda own.raw --format raw --dry-run");
  expect(status).toBe(0);
  expect(stdout).toContain("note: 'vda' was on it already; its chain is as it is found now\n");
  expect(stdout).not.toContain("the other image");
});

test("a merge that takes snapshots away which it does not name asks on a terminal, and no other does", async () => {
  const questions: string[] = [];
  const imgtx = async (line: string, answer: string) => {
    const ask = async (question: string): Promise<string> => {
      questions.push(question);
      return answer;
    };
    return await runCli(line.split(" "), { cwd: folder, ask });
  };
  await imgtx("img create -q -f qcow2 base.qcow2 1M", "");
  await imgtx("device add vdm base.qcow2", "");
  await imgtx("snapshot vdm one.qcow2 --name monday", "");
  const refused = await imgtx("merge vdm", "n");
  expect({ status: refused.status, questions }).toEqual({
    status: 14,
    questions: ["imgtx: What these snapshots keep of 'vdm' is lost: 1 (monday). Go on? [y/N] "],
  });
  const { status } = await imgtx("merge vdm", "y");
  expect(status).toBe(0);
  await imgtx("img create -q -f qcow2 -b base.qcow2 -F qcow2 two.qcow2", "");
  await imgtx("reopen vdm two.qcow2", "");
  const plain = await imgtx("merge vdm", "n");
  expect({ status: plain.status, asked: questions.length }).toEqual({ status: 0, asked: 2 });
});
