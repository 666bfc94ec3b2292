// A commit whose merge takes long is cut off: who goes on with it, and who leaves it to others.

import { describe, expect } from "vitest";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { openSession } from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import {
  compareMirror,
  dieAmidCopy,
  IDENTICAL,
  makeBehind,
  stagingFiles,
  stateOf,
} from "../../helpers/transaction/mirroring.ts";
import { NO_WAIT, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const READING = { ...NO_WAIT, workspace: undefined, createHere: false, caller: "reader" } as const;

describe("a merge that takes long", () => {
  /** The mirror's overlay seems as large as that, to whoever asks. */
  function withLargeOverlays(): Storage {
    const real = makeNodeStorage();
    return {
      ...real,
      statLink: async (path) => {
        const stat = await real.statLink(path);
        return stat && path.includes("/.imgtx-") ? { ...stat, allocatedBytes: 2 ** 36 } : stat;
      },
    };
  }

  qemu.test("is left by readers and by commands on other devices", async () => {
    const bench = (await makeBehind()).through(withLargeOverlays());
    await dieAmidCopy(bench, "file.flush", 1);
    const before = stateOf(bench.at("m.qcow2"));
    const { recovered } = await openSession(bench.storage, { ...READING, startFolder: bench.root });
    expect(recovered).toMatchObject([{ did: "waiting", obstacle: { devices: ["vdc"], isCommitted: true } }]);
    await bench.snapshot({ vda: "a1.qcow2" });
    expect(stateOf(bench.at("m.qcow2"))).toEqual(before);
    expect(await bench.open()).toMatchObject([{ state: "committed", devices: ["vdc"] }]);
  });

  qemu.test.each([
    [
      "recover",
      async (bench: Workbench) => {
        const options = { ...READING, startFolder: bench.root, caller: "recover" as const };
        return (await openSession(bench.storage, options)).recovered.map(({ did }) => did);
      },
    ],
    [
      "the next command that changes the device",
      async (bench: Workbench) => {
        const told: string[] = [];
        await bench.snapshot({ vdc: "c1.qcow2" }, {}, { onRecovered: ({ did }) => told.push(did) });
        return told;
      },
    ],
  ])("is done by %s", async (_, command) => {
    const bench = (await makeBehind()).through(withLargeOverlays());
    await dieAmidCopy(bench, "file.flush", 1);
    expect(await command(bench)).toEqual(["finished"]);
    expect(compareMirror(bench)).toBe(IDENTICAL);
    expect(await bench.open()).toEqual([]);
    expect(stagingFiles(bench)).toEqual([]);
  });
});
