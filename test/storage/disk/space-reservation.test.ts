// Space that is taken before anything is written: it has no name, and ends with its release.

import { readdirSync, statfsSync } from "node:fs";
import { expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const MIB = 2 ** 20;

/** Without the calls that take space, the free space is looked at. */
const WAYS = [
  ["with system calls", makeNodeStorage()],
  [
    "without them",
    makeNodeStorage({
      loadSystemCalls: () => {
        throw new Error("none");
      },
    }),
  ],
] as const;

test.each(WAYS)(
  "%s what is there can be taken, and given back twice, and leaves no file",
  async (_, storage) => {
    const folder = makeFolder("on a disk");
    const taken = await storage.reserveSpace(folder, 8 * MIB);
    expect(readdirSync(folder)).toEqual([]);
    await taken.release();
    await taken.release();
  },
);

test.each(WAYS)("%s more than there is fails, and leaves no file", async (_, storage) => {
  const folder = makeFolder("on a disk");
  const { bavail, bsize } = statfsSync(folder);
  const failure = await failureOf(async () => await storage.reserveSpace(folder, (bavail + 1) * bsize * 2));
  expect(failure).toMatchObject({ code: "E_NO_SPACE", exitCode: 13, changed: false });
  expect(readdirSync(folder)).toEqual([]);
});
