import { expect, test } from "vitest";
import { Pipeline } from "../../../src/format/read/pipeline.ts";

test("a job that needs no room starts beside as many as may be under way, and counts after them", async () => {
  const events: string[] = [];
  const pipeline = new Pipeline<string>(1);
  let end = (): void => undefined;
  const slow = new Promise<undefined>((resolve) => {
    end = () => {
      resolve(undefined);
    };
  });
  await pipeline.add(
    () => slow,
    () => events.push("slow done"),
  );
  for (const name of ["one", "two"]) {
    await pipeline.add(
      async () => void events.push(name),
      () => events.push(`${name} done`),
      false,
    );
  }
  expect(events).toEqual(["one", "two"]);
  end();
  await slow;
  // What has ended is taken when the next is added, and room is there again.
  await pipeline.add(async () => void events.push("last"));
  await pipeline.add(async () => "found", undefined, false);
  await pipeline.add(async () => void events.push("never"), undefined, false);
  expect(pipeline.isSettled).toBe(true);
  expect(await pipeline.finish()).toBe("found");
  expect(events).toEqual(["one", "two", "slow done", "one done", "two done", "last"]);
});

test("jobs that need no room are not listed without end", async () => {
  const pipeline = new Pipeline<never>(1);
  let end = (): void => undefined;
  const first = new Promise<undefined>((resolve) => {
    end = () => {
      resolve(undefined);
    };
  });
  await pipeline.add(() => first, undefined, false);
  let count = 1;
  const adding = (async () => {
    for (; count < 1000; count += 1) await pipeline.add(async () => undefined, undefined, false);
  })();
  await new Promise((resume) => setImmediate(resume));
  expect(count).toBe(128);
  end();
  await adding;
  await pipeline.finish();
});
