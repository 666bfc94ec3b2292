import { expect, test } from "vitest";
import { elseClosed, EXIT_OF_CODE, ImgtxError, settleAll } from "../../src/errors/index.ts";

test("an error keeps the places it has, and takes those that it lacks", () => {
  const error = new ImgtxError("E_CORRUPT", "bad", { image: "/a", offset: 7 });
  const placed = error.with({ device: "vda", image: "/b" });
  expect(placed).toMatchObject({ code: "E_CORRUPT", device: "vda", image: "/a", offset: 7, changed: false });
});

test("an error in other words has the first one as its cause, and keeps what is not replaced", () => {
  const error = new ImgtxError("E_IO", "bad", { image: "/staging", hint: "wait", changed: true });
  const reworded = error.reworded("worse", { image: "/a" });
  expect(reworded).toMatchObject({
    code: "E_IO",
    message: "worse",
    image: "/a",
    hint: "wait",
    changed: true,
  });
  expect(reworded.cause).toBe(error);
});

test("an error within another task keeps what happened as data, and both prefixes", () => {
  const lock = { failed: 'Failed to get "write" lock', holders: "pid 7 (qemu)" };
  const error = new ImgtxError("E_LOCKED", "Could not lock '/a'", { image: "/a", doing: "lock", lock });
  const within = error.within("backing file: ").within("image: ");
  expect(within).toMatchObject({
    message: "image: backing file: Could not lock '/a'",
    prefix: "image: backing file: ",
    doing: "lock",
    lock,
  });
});

test("the exit statuses are those of the contract", () => {
  expect(new Set(Object.values(EXIT_OF_CODE))).toEqual(
    new Set([1, 10, 11, 12, 13, 14, 15, 16, 64, 130, 143]),
  );
});

test("settleAll throws the first error only when all the others have ended", async () => {
  const order: string[] = [];
  const slow = new Promise<void>((resolve) => {
    setTimeout(() => {
      order.push("slow");
      resolve();
    }, 20);
  });
  await expect(settleAll([Promise.reject(new Error("first")), slow])).rejects.toThrow("first");
  expect(order).toEqual(["slow"]);
});

test("elseClosed closes what is open only where the work on it fails", async () => {
  let closings = 0;
  const open = { close: async () => void (closings += await Promise.resolve(1)) };
  expect(await elseClosed(open, () => 7)).toBe(7);
  expect(closings).toBe(0);
  const work = (): Promise<never> => Promise.reject(new Error("first"));
  await expect(elseClosed(open, work)).rejects.toThrow("first");
  expect(closings).toBe(1);
});
