// Hints of what the system said, where nobody gave another.

import { expect, test } from "vitest";
import { hintOf } from "../../../src/cli/render/hint.ts";
import type { ImgtxError } from "../../../src/errors/index.ts";
import { explainError } from "../../../src/storage/system-error.ts";

function hintFor(code: string): string | undefined {
  const failed = Object.assign(new Error(code), { code });
  return hintOf(explainError(failed, "open", "/srv/a b/a.qcow2") as ImgtxError);
}

test("who may not for his rights is shown those, and who may not for a flag of the file that one", () => {
  expect(hintFor("EACCES")).toMatch(/^`namei -l '\/srv\/a b\/a\.qcow2'` shows/);
  expect(hintFor("EPERM")).toMatch(/^`lsattr -d '\/srv\/a b\/a\.qcow2' '\/srv\/a b'` shows flags/);
});
