// A copy into an image that is there, cut off: it goes on where the journal says that all was durable.

import { execFileSync } from "node:child_process";
import { describe, expect } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { atNthAfterMark, IDENTICAL, judge, mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

describe("a copy that was cut off", () => {
  /** A raw mirror that lacks two ranges, and whose copy died at its nth write, the journal told of each step. */
  async function dieAmidRawCopy(nth: number, through?: (storage: Storage) => Storage): Promise<Workbench> {
    const bench = await makeWorkbench();
    await mirror(bench, { vdb: "m.raw" });
    writeGuest(bench.at("b.raw"), "raw", "write -P 5 0 4k", "write -P 6 128k 4k");
    const dying = killAt(makeNodeStorage(), atNthAfterMark("file.write", "m.raw", nth));
    const copying = mirror(
      bench.through(through?.(dying) ?? dying),
      { vdb: undefined },
      {},
      { markEveryMs: 0 },
    );
    await expect(copying).rejects.toThrow("killed");
    return bench;
  }

  qemu.test("goes on where the journal says that it was durable", async () => {
    const bench = await dieAmidRawCopy(2);
    // What another one writes before that place stays: it is not copied again.
    writeGuest(bench.at("m.raw"), "raw", "write -P 77 0 512");
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    execFileSync("qemu-io", [
      "-f",
      "raw",
      "-c",
      "read -P 77 0 512",
      "-c",
      "read -P 6 128k 4k",
      bench.at("m.raw"),
    ]);
    expect((await mirror(bench, { vdb: undefined })).changed).toBe(true);
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
  });

  qemu.test("and that the journal could not be told of begins anew", async () => {
    const full = (storage: Storage) => {
      let isMarked = false;
      return watchStorage(storage, ({ name, path, purpose }) => {
        if (isMarked && name === "file.write" && path.includes("/.imgtx/journal/")) {
          throw new ImgtxError("E_NO_SPACE", "full");
        }
        isMarked ||= purpose === "commit mark";
      });
    };
    const bench = await dieAmidRawCopy(2, full);
    writeGuest(bench.at("m.raw"), "raw", "write -P 77 0 512");
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
  });
});
