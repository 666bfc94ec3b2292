// What doctor finds, each as it comes about: a script that makes it, and where it is found then.

import { fileURLToPath } from "node:url";
import type { FINDINGS } from "../../../src/transaction/doctor/findings.ts";
import { ImgtxError } from "../../../src/errors/index.ts";
import type { Storage } from "../../../src/storage/index.ts";
import { foreignDisk } from "../storage/foreign-disk.ts";
import { unpackFixture } from "../fixtures.ts";

const TOP = fileURLToPath(new URL("../../..", import.meta.url));
const PROGRAM = `${process.execPath} ${TOP}/bin/imgtx.js`;
export const CREATE = "qemu-img create -q -f qcow2";
export const BASE = `${CREATE} base.qcow2 1M`;
export const OVER = (name: string, base = "base.qcow2"): string => `${CREATE} -b ${base} -F qcow2 ${name}`;
export const PATCH = (file: string, at: number, byte: string): string =>
  `printf '\\x${byte}' | dd of=${file} bs=1 seek=${at} conv=notrunc status=none`;

export interface Trouble {
  readonly code: keyof typeof FINDINGS;
  readonly script: string | ((folder: string) => void | Promise<void>);
  readonly at: string;
  readonly words?: readonly string[];
  /** It gives no command: what is lost, and what is somebody's to decide. */
  readonly hasNone?: true;
  /** The command makes a new file, or shows what there is: the finding stays. */
  readonly stays?: true;
  /** What a disk does that no test can have: the storage that doctor looks through. The command is pasted without. */
  readonly through?: (storage: Storage, folder: string) => Storage;
}

const fixture =
  (name: string) =>
  async (folder: string): Promise<void> => {
    await unpackFixture(name, folder);
  };

/** A change that was killed before its commit mark, at whichever write that is. */
const LEFT_BESIDE =
  `for n in 10 12 14 16 18 20; do ${KILLED("img resize base.qcow2 2M", "pwrite64:signal=KILL:when=$n")} >&2; ` +
  "if [ -e .base.qcow2.imgtx ]; then break; fi; done";

export const TROUBLES: readonly Trouble[] = [
  {
    code: "cut-off",
    script: fixture("corrupt/l1-truncated.qcow2"),
    at: "corrupt/l1-truncated.qcow2",
    hasNone: true,
  },
  {
    code: "header-damaged",
    script: fixture("corrupt/l1-at-header.qcow2"),
    at: "corrupt/l1-at-header.qcow2",
    hasNone: true,
  },
  {
    code: "unsupported",
    script: fixture("corrupt/version-4.qcow2"),
    at: "corrupt/version-4.qcow2",
    hasNone: true,
  },
  { code: "corrupt-bit", script: `${BASE}; ${PATCH("base.qcow2", 79, "02")}`, at: "base.qcow2" },
  { code: "dirty-bit", script: fixture("dirty.qcow2"), at: "dirty.qcow2" },
  { code: "bitmap-in-use", script: fixture("bitmap-in-use.qcow2"), at: "bitmap-in-use.qcow2" },
  {
    code: "bitmaps-stale",
    script: `${BASE}; qemu-img bitmap --add base.qcow2 b; ${PATCH("base.qcow2", 95, "00")}`,
    at: "base.qcow2",
  },
  {
    code: "perhaps-cut-off",
    script: `${BASE}; qemu-io -c 'write 0 1M' base.qcow2 >&2; truncate -s 700k base.qcow2`,
    at: "base.qcow2",
    hasNone: true,
  },
  {
    code: "cut-off",
    script: `${BASE}; qemu-io -c 'write 0 1M' base.qcow2 >&2; truncate -s -64k base.qcow2`,
    at: "base.qcow2",
    words: ["--check", "."],
    stays: true,
  },
  { code: "leaks", script: fixture("corrupt/leak.qcow2"), at: "corrupt/leak.qcow2", words: ["--check", "."] },
  {
    code: "uncounted",
    script: fixture("corrupt/refcount-zero.qcow2"),
    at: "corrupt/refcount-zero.qcow2",
    words: ["--check", "."],
  },
  {
    code: "damaged",
    script: `${BASE}; qemu-io -c 'write 0 64k' base.qcow2 >&2; ${PATCH("base.qcow2", 0x4_0000, "00")}`,
    at: "base.qcow2",
    words: ["--check", "."],
  },
  {
    code: "damaged",
    script: fixture("corrupt/snapshot-l1-huge.qcow2"),
    at: "corrupt/snapshot-l1-huge.qcow2",
    words: ["--check", "."],
    stays: true,
  },
  {
    code: "damaged",
    script: fixture("corrupt/bitmap-type.qcow2"),
    at: "corrupt/bitmap-type.qcow2",
    words: ["--check", "."],
    hasNone: true,
  },
  { code: "unreadable", script: BASE, at: "base.qcow2", through: shutOut("openFile"), stays: true },
  { code: "unreadable", script: BASE, at: ".", through: shutOut("readFolder"), stays: true },
  {
    code: "unreadable",
    script: BASE,
    at: "base.qcow2",
    through: (storage) => ({
      ...storage,
      openFile: async (path, ...how) => {
        if (path.endsWith("base.qcow2")) throw new ImgtxError("E_IO", "a bad sector", { image: path });
        return await storage.openFile(path, ...how);
      },
    }),
    hasNone: true,
  },
  {
    code: "space-low",
    script: BASE,
    at: ".",
    through: (storage) => ({
      ...storage,
      measureSpace: async () => ({ freeBytes: 2 ** 30, totalBytes: 2 ** 40 }),
    }),
    hasNone: true,
  },
  {
    code: "locks-unshared",
    script: BASE,
    at: ".",
    through: (storage) => ({
      ...storage,
      describeFileSystem: async (path) => ({
        ...(await storage.describeFileSystem(path)),
        sharesLocks: false,
      }),
    }),
    hasNone: true,
  },
  {
    code: "times-coarse",
    script: BASE,
    at: ".",
    through: (storage, folder) => foreignDisk(storage, folder, 1),
    hasNone: true,
  },
  {
    code: "workspace-unreadable",
    script: "mkdir w; imgtx init w; chown -R nobody w",
    at: "w",
    stays: true,
  },
  {
    code: "workspace-unreadable",
    script: "mkdir w; imgtx init w; truncate -s 100 w/.imgtx/table.json",
    at: "w",
    hasNone: true,
  },
  { code: "raw-imitates", script: `${CREATE} disk.raw 1M`, at: "disk.raw", stays: true },
  {
    code: "raw-imitates",
    script: `${CREATE} guest 1M; ${CREATE} o.qcow2 1M; imgtx img rebase -f qcow2 -u -b guest -F raw o.qcow2`,
    at: "guest",
    stays: true,
  },
  {
    code: "backing-loop",
    script: `${BASE}; qemu-img rebase -u -b base.qcow2 -F qcow2 base.qcow2`,
    at: "base.qcow2",
    hasNone: true,
  },
  {
    code: "backing-missing",
    script: `${BASE}; ${OVER("o.qcow2")}; rm base.qcow2`,
    at: "o.qcow2",
    hasNone: true,
  },
  {
    code: "backing-missing",
    script: `${BASE}; ${OVER("o.qcow2")}; mkdir 'else where'; mv base.qcow2 'else where'`,
    at: "o.qcow2",
  },
  {
    code: "backing-unusable",
    script: `${BASE}; ${OVER("o.qcow2")}; rm base.qcow2; mkfifo base.qcow2`,
    at: "o.qcow2",
    hasNone: true,
  },
  {
    code: "data-file-missing",
    script: `${CREATE} -o data_file=d.bin d.qcow2 1M; rm d.bin`,
    at: "d.qcow2",
    hasNone: true,
  },
  {
    code: "data-file-ambiguous",
    script: `mkdir s; cd s; ${CREATE} -o data_file=d.bin d.qcow2 1M`,
    at: "s/d.qcow2",
  },
  {
    code: "data-file-outside",
    script: `mkdir s o; ${CREATE} -o data_file="$PWD/o/d.bin" s/d.qcow2 1M`,
    at: "s/d.qcow2",
    hasNone: true,
  },
  {
    code: "backing-newer",
    script: `${BASE}; ${OVER("o.qcow2")}; touch -d '1 hour ago' o.qcow2; qemu-io -c 'write 0 64k' base.qcow2 >&2`,
    at: "o.qcow2",
    hasNone: true,
  },
  { code: "format-missing", script: fixture("over-no-format.qcow2"), at: "over-no-format.qcow2" },
  { code: "format-missing", script: fixture("over-no-format-raw.qcow2"), at: "over-no-format-raw.qcow2" },
  {
    code: "name-ambiguous",
    script: `mkdir s; ${BASE}; ${OVER("o.qcow2")}; ln -s ../o.qcow2 s/o.qcow2`,
    at: "o.qcow2",
  },
  { code: "name-absolute", script: `${BASE}; ${OVER("o.qcow2", '"$PWD/base.qcow2"')}`, at: "o.qcow2" },
  {
    code: "backing-outside",
    script: `mkdir in out; cd in; ${CREATE} ../out/base.qcow2 1M; ${OVER("o.qcow2", "../out/base.qcow2")}`,
    at: "in/o.qcow2",
    words: ["in"],
  },
  {
    code: "raw-outside",
    script: `mkdir in; ${CREATE} -b /etc/passwd -F raw in/o.qcow2`,
    at: "in/o.qcow2",
    words: ["in"],
    hasNone: true,
  },
  {
    code: "chain-deep",
    script: `${CREATE} 0.qcow2 1M; for n in {1..31}; do ${CREATE} -b $((n-1)).qcow2 -F qcow2 $n.qcow2; done`,
    at: "31.qcow2",
  },
  {
    code: "owner-shut-out",
    script: `${BASE}; ${OVER("o.qcow2")}; chmod 600 base.qcow2; chmod 755 .; chown nobody o.qcow2`,
    at: "o.qcow2",
  },
  {
    code: "fenced",
    script: `${BASE}; imgtx device add vda base.qcow2; imgtx freeze vda; rm -r .imgtx devices; imgtx device add vda base.qcow2`,
    at: "base.qcow2",
    words: ["vda"],
  },
  { code: "change-left-beside", script: `${BASE}; ${LEFT_BESIDE}`, at: "base.qcow2" },
  { code: "change-left-beside", script: `${BASE}; ${LEFT_BESIDE}`, at: "base.qcow2", words: ["base.qcow2"] },
  {
    code: "workspace-copied",
    script: `mkdir w; ${CREATE} w/base.qcow2 1M; imgtx init w; imgtx --workspace w device add vda w/base.qcow2; cp -r w copy`,
    at: "copy",
    words: ["copy"],
  },
  {
    code: "backing-changed",
    script: `${BASE}; imgtx device add vda base.qcow2; imgtx snapshot vda; qemu-io -c 'write 0 64k' base.qcow2 >&2`,
    at: "base.qcow2",
    words: [],
    hasNone: true,
  },
  {
    code: "snapshot-unsound",
    script: `${BASE}; imgtx device add vda base.qcow2; imgtx snapshot vda; qemu-io -c 'write 0 64k' base.qcow2 >&2`,
    at: ".",
    words: [],
    hasNone: true,
  },
  {
    code: "device-unsound",
    script: `${BASE}; imgtx device add vda base.qcow2; imgtx mirror vda m.qcow2; rm m.qcow2`,
    at: "base.qcow2",
    words: [],
  },
  {
    code: "orphan",
    script: `${BASE}; ${CREATE} "it's old.qcow2" 1M; imgtx device add vda base.qcow2`,
    at: "it's old.qcow2",
    words: [],
    hasNone: true,
  },
  {
    code: "merge-ruins-overlay",
    script: `${BASE}; ${OVER("o.qcow2")}; imgtx device add vda o.qcow2; imgtx txn begin; imgtx merge vda; ${OVER("p.qcow2")}`,
    at: "base.qcow2",
    words: [],
  },
  {
    code: "freeze-forgotten",
    script: `${BASE}; imgtx device add vda base.qcow2; 2 days ago, imgtx freeze vda`,
    at: "base.qcow2",
    words: [],
  },
  {
    code: "transaction-stale",
    script: `${BASE}; imgtx device add vda base.qcow2; 2 days ago, imgtx txn begin`,
    at: ".",
    words: [],
  },
  {
    code: "transaction-unfinished",
    script: `${BASE}; imgtx device add vda base.qcow2; ${KILLED("snapshot vda", "renameat2:signal=KILL:when=1")}`,
    at: ".",
    words: [],
  },
  {
    code: "garbage",
    script: `${BASE}; imgtx device add vda base.qcow2; imgtx snapshot vda a.qcow2; imgtx undo; imgtx snapshot vda b.qcow2`,
    at: "a.qcow2",
    words: [],
  },
];

/** With one thread, so that the call is the same one each time. */
function KILLED(words: string, inject: string): string {
  return (
    `UV_THREADPOOL_SIZE=1 strace -f -qq -o /dev/null -e trace=${inject.split(":")[0] ?? ""} -e signal=none ` +
    `-e inject=${inject} ${PROGRAM} ${words} || true`
  );
}

/** As for who is not root. */
function shutOut(call: "openFile" | "readFolder"): NonNullable<Trouble["through"]> {
  return (storage, folder) => {
    const assertOpen = (path: string): void => {
      if (path !== folder && path !== `${folder}/base.qcow2`) return;
      throw new ImgtxError("E_NO_PERMISSION", "it is another user's", { image: path });
    };
    return call === "openFile"
      ? {
          ...storage,
          openFile: async (path, ...how) => {
            assertOpen(path);
            return await storage.openFile(path, ...how);
          },
        }
      : {
          ...storage,
          readFolder: async (path) => {
            assertOpen(path);
            return await storage.readFolder(path);
          },
        };
  };
}
