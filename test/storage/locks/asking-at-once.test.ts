// Programs that ask for the same image at the same instant: who is lowest goes on, however long the others take to give
// way. The others are played by the locks that they would have at that instant, on a machine whose clock each pause moves
// by a second.

import { expect, test } from "vitest";
import { acquireImageLocks, type Host, makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import type { ImageRole } from "../../../src/storage/locks/qemu-lock.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const NUMBER = "h0000";
const ASKING = { writer: 2 ** 30, reader: 2 ** 29 } as const;
const USED_TO_WRITE = 101;

const byteOf = (role: ImageRole, number: string) => ASKING[role] + Number.parseInt(number, 36);

/** An image, another program's hand on it, and what asks for it under `NUMBER`. `onPause` is told how many pauses there were. */
async function meet(onPause: (pauses: number) => void = () => undefined) {
  const real = makeNodeStorage();
  const path = `${makeFolder()}/a.img`;
  const other = await real.createFile(path, 0o600);
  let pauses = 0;
  const host: Host = {
    ...real.host,
    randomName: () => `some${NUMBER}`,
    monotonicMs: () => pauses * 1000,
    sleep: async () => await Promise.resolve(onPause((pauses += 1))),
  };
  const storage: Storage = new Proxy(real, {
    get: (target, property): unknown => (property === "host" ? host : Reflect.get(target, property, target)),
  });
  const file = await real.openFile(path, "read");
  return {
    other: {
      take: (start: number) => expect(other.lock({ start, lengthBytes: 1 }, "shared")).toBe(true),
      giveBack: (start: number) => other.unlock({ start, lengthBytes: 1 }),
      sees: (start: number) => other.wouldConflict({ start, lengthBytes: 1 }, "exclusive"),
    },
    ask: async (role: ImageRole) =>
      await acquireImageLocks(storage, [{ file, role }], { waitMs: 0, onWait: () => undefined }),
    pauses: () => pauses,
  };
}

test("who has the lowest number asks until the others have given way, and says no more then that it asks", async () => {
  const seen: boolean[] = [];
  const { other, ask, pauses } = await meet((count) => {
    seen.push(other.sees(byteOf("writer", NUMBER)));
    if (count === 7) for (const byte of [USED_TO_WRITE, byteOf("writer", "i0000")]) other.giveBack(byte);
  });
  for (const byte of [byteOf("writer", "i0000"), USED_TO_WRITE]) other.take(byte);
  await ask("writer");
  expect(pauses()).toBe(7);
  // So that who comes meanwhile gives way.
  expect(seen).toEqual(Array(7).fill(true));
  expect(other.sees(byteOf("writer", NUMBER))).toBe(false);
  expect(other.sees(USED_TO_WRITE)).toBe(true);
});

test.each([
  ["writer", "writer"],
  ["writer", "reader"],
  ["reader", "writer"],
] as const)(
  "a %s gives way to a %s of a lower number, and touches nothing meanwhile",
  async (role, lower) => {
    const seen: boolean[] = [];
    const { other, ask } = await meet(() => seen.push(other.sees(100), other.sees(byteOf(role, NUMBER))));
    other.take(byteOf(lower, "g0000"));
    expect((await failureOf(async () => await ask(role))).code).toBe("E_LOCKED");
    expect(new Set(seen)).toEqual(new Set([false]));
  },
);

test("readers are in nobody's way among each other", async () => {
  const { other, ask, pauses } = await meet();
  for (const number of ["g0000", "i0000"]) other.take(byteOf("reader", number));
  await ask("reader");
  expect(pauses()).toBe(0);
});

test("who was stopped while it asked is not waited for without end, and nothing is held after that", async () => {
  const { other, ask, pauses } = await meet();
  for (const byte of [byteOf("writer", "i0000"), USED_TO_WRITE]) other.take(byte);
  expect((await failureOf(async () => await ask("writer"))).code).toBe("E_LOCKED");
  expect(pauses()).toBe(10);
  expect(other.sees(byteOf("writer", NUMBER)) || other.sees(100)).toBe(false);
});

test("who has the image already refuses at once, also while nobody else asks", async () => {
  const { other, ask, pauses } = await meet();
  other.take(USED_TO_WRITE);
  expect((await failureOf(async () => await ask("writer"))).code).toBe("E_LOCKED");
  expect(pauses()).toBe(3);
});
