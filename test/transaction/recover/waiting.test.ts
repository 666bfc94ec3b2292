// Waiting for a device that another command works on.

import { describe, expect, test } from "vitest";
import { beginRecordOf, Journal } from "../../../src/transaction/journal/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { planRecord } from "../../helpers/transaction/journals.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

/** A command of another process that works on vda: its journal, which is locked. */
async function workOnVda(bench: Workbench): Promise<Journal> {
  const { workspace } = await bench.session();
  const choice = {
    id: "zzzzzzzzzz",
    name: null,
    onError: "abort",
    implicit: true,
    owned: false,
    owner: null,
  } as const;
  return await Journal.create(workspace, beginRecordOf(workspace, choice), [
    { ...planRecord(0), newFiles: [] },
  ]);
}

describe("a device that another command works on", () => {
  test("refuses a command that does not wait", async () => {
    const bench = await makeWorkbench();
    const other = await workOnVda(bench);
    const failure = await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" }));
    expect(failure).toMatchObject({ code: "E_BUSY", device: "vda", changed: false });
    await other.close();
  });

  test("is waited for, said once, without more and more open files", async () => {
    const bench = await makeWorkbench();
    const other = await workOnVda(bench);
    let most = 0;
    let slept = 0;
    const host = {
      ...bench.storage.host,
      monotonicMs: () => slept,
      sleep: async (milliseconds: number) => {
        slept += milliseconds;
        await Promise.resolve();
      },
    };
    const storage = watchStorage({ ...bench.storage, host }, () => {
      most = Math.max(most, storage.openFiles.size);
    });
    const waits: string[] = [];
    const options = { waitMs: 5000, onWait: (what: string) => waits.push(what) };
    const failure = await failureOf(
      async () => await bench.through(storage).snapshot({ vda: "a1.qcow2" }, {}, options),
    );
    expect(failure.code).toBe("E_BUSY");
    expect(waits).toHaveLength(1);
    expect(most).toBeLessThan(10);
    expect(storage.openFiles.size).toBe(0);
    await other.close();
  });

  test("is taken when the other one has ended", async () => {
    const bench = await makeWorkbench();
    const other = await workOnVda(bench);
    const onWait = (): void => void other.retire();
    const waiting = { waitMs: Number.POSITIVE_INFINITY, onWait };
    expect(await bench.snapshot({ vda: "a1.qcow2" }, {}, waiting)).toMatchObject({
      changed: true,
      generation: 4,
    });
  });
});

describe("many commands that wait for one device", () => {
  test("all get through, however often each is overtaken", async () => {
    const bench = await makeWorkbench();
    const patient = { waitMs: 600_000, onWait: () => undefined };
    const names = Array.from({ length: 16 }, (_, index) => `s${index}.qcow2`);
    const outcomes = await Promise.all(
      names.map(async (name) => await bench.snapshot({ vda: name }, {}, patient)),
    );
    const generations = outcomes.map(({ generation }) => generation).sort((a, b) => a - b);
    expect(generations).toEqual(names.map((_, index) => 4 + index));
  });

  test("give up when they may wait no longer, by a clock that nobody sets", async () => {
    const bench = await makeWorkbench();
    const other = await workOnVda(bench);
    let [slept, hour] = [0, 0];
    const host = {
      ...bench.storage.host,
      now: () => Date.now() - hour,
      monotonicMs: () => slept,
      sleep: async (milliseconds: number) => {
        slept += milliseconds;
        hour = 3_600_000;
        await Promise.resolve();
      },
    };
    const storage = { ...bench.storage, host };
    const failure = await failureOf(
      async () =>
        await bench
          .through(storage)
          .snapshot({ vda: "a1.qcow2" }, {}, { waitMs: 3000, onWait: () => undefined }),
    );
    expect(failure.code).toBe("E_BUSY");
    expect(slept).toBeGreaterThanOrEqual(3000);
    expect(slept).toBeLessThan(4000);
    await other.close();
  });
});
