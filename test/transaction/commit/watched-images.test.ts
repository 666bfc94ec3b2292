// What a commit says of images whose change times its own command has moved a moment ago.

import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { Fingerprint } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { assertNothingChanged, findSettled } from "../../../src/transaction/commit/watched-images.ts";
import { applyRecord } from "../../../src/transaction/journal/fold.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { BEGIN, FINGERPRINT, makeJournalFolder } from "../../helpers/transaction/journals.ts";

const storage = makeNodeStorage();
const READ: Fingerprint = { ...FINGERPRINT, changedNs: "7", settled: false };

/** What is found of a new or an old image that looks like `now` to the commit. */
async function settledOf(now: Fingerprint, { isNew = false, isJust = true } = {}): Promise<boolean> {
  const image = `${makeFolder()}/a.raw`;
  writeFileSync(image, "a");
  const file = await storage.openFile(image, "read");
  try {
    const watched = { device: "vda", image, isNew, fingerprint: READ };
    const open = { watched, file, isLocked: true, isOwn: false };
    const just = new Set(isJust ? [image] : []);
    const found = await findSettled({ storage }, [open], new Map([[image, now]]), just);
    return found.includes(image);
  } finally {
    await file.close();
  }
}

describe("an image that was read amid the moment of a write", () => {
  test("is settled where it is as it was read, and each later write would show", async () => {
    expect(await settledOf({ ...READ, settled: true })).toBe(true);
  });

  test("is not where the command has not moved its change time, or has made it", async () => {
    expect(await settledOf({ ...READ, settled: true }, { isJust: false })).toBe(false);
    expect(await settledOf({ ...READ, settled: true }, { isNew: true })).toBe(false);
  });

  test("is not where it was changed since, though its time of modification is the old one", async () => {
    expect(await settledOf({ ...READ, changedNs: "8", settled: true })).toBe(false);
  });

  test("is not where its file system tells of no write, however long that is waited for", async () => {
    expect(await settledOf({ ...READ, fileSystemId: "nfs:1" })).toBe(false);
  });
});

test.each([
  [true, "put it back where it was, then run the command again"],
  [false, "`imgtx txn abort` takes the transaction back; then begin again"],
])(
  "an image that has gone is told of as the command can be taken up again: by itself %s",
  async (implicit, hint) => {
    const workspace = makeJournalFolder();
    const image = `${workspace.root}/gone.raw`;
    writeFileSync(`${workspace.root}/other.raw`, "a");
    const file = await storage.openFile(`${workspace.root}/other.raw`, "read");
    const watched = { device: "vda", image, isNew: false, fingerprint: READ };
    const state = applyRecord(undefined, { ...BEGIN, implicit }, "journal");
    const failure = await failureOf(() =>
      assertNothingChanged(workspace, [{ watched, file, isLocked: true, isOwn: false }], state),
    );
    await file.close();
    expect(failure).toMatchObject({ code: "E_CHANGED", image, hint });
  },
);
