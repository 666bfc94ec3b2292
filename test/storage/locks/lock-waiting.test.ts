// Waits on a machine whose clock is set while they last, or that is slow.

import { expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { type Host, lockFile, makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { waitForLock } from "../../../src/storage/locks/lock-waiting.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const HOUR_MS = 3_600_000;
const BYTE = { start: 0, lengthBytes: 1 };

/** Sleeps in no time. The wall clock is set when the process has slept twice. */
function makeSteppingHost(stepMs: number): { host: Host; sleptMs: () => number } {
  let [slept, sleeps] = [0, 0];
  const wall = () => 1_700_000_000_000 + slept + (sleeps >= 2 ? stepMs : 0);
  const host: Host = {
    ...makeNodeStorage().host,
    now: wall,
    monotonicMs: () => slept,
    sleep: async (milliseconds) => {
      slept += milliseconds;
      sleeps += 1;
      await Promise.resolve();
    },
  };
  return { host, sleptMs: () => slept };
}

test.each([
  ["back by an hour", -HOUR_MS],
  ["forward by an hour", HOUR_MS],
])("a wait lasts as long as it says where the clock is set %s", async (_, stepMs) => {
  const real = makeNodeStorage();
  const { host, sleptMs } = makeSteppingHost(stepMs);
  const storage: Storage = new Proxy(real, {
    get: (target, property): unknown => (property === "host" ? host : Reflect.get(target, property, target)),
  });
  const path = `${makeFolder()}/lock`;
  const holder = await real.createFile(path, 0o600);
  holder.lock(BYTE, "exclusive");
  const file = await real.openFile(path, "write");
  const waiting = { waitMs: 3000, onWait: () => undefined };
  const failure = await failureOf(async () => await lockFile(storage, file, BYTE, waiting, "the workspace"));
  expect(failure.code).toBe("E_BUSY");
  expect(sleptMs()).toBeGreaterThanOrEqual(3000);
  expect(sleptMs()).toBeLessThan(4000);
  await file.close();
  await holder.close();
});

test("who is met for an instant refuses nobody, also where the machine is away for longer than that", async () => {
  const { host } = makeSteppingHost(0);
  const slow: Host = { ...host, sleep: async (milliseconds) => await host.sleep(milliseconds + HOUR_MS) };
  const announced: string[] = [];
  const waiting = { waitMs: 0, onWait: (what: string) => announced.push(what) };
  const refusal = {
    describe: () => Promise.resolve("it"),
    toError: () => Promise.resolve(new ImgtxError("E_LOCKED", "it is in use")),
  };
  const meet = async (times: number): Promise<void> => {
    let tries = 0;
    await waitForLock(slow, waiting, 40, () => Promise.resolve((tries += 1) <= times ? refusal : undefined));
  };
  await meet(2);
  expect((await failureOf(async () => await meet(9))).code).toBe("E_LOCKED");
  expect(announced).toEqual([]);
});
