// Every action of QMP and every argument of it: what request it becomes, or why it is refused.

import { describe, expect, test } from "vitest";
import { makeDevice } from "../../../helpers/cli/harness.ts";
import { runQmp } from "../../../helpers/cli/run-qmp.ts";

const COPY = {
  device: "vda",
  file: "/c.qcow2",
  format: undefined,
  sync: "full",
  compressed: false,
  options: {},
  relative: false,
  reuse: false,
  bitmap: false,
  verify: false,
};
const BACKUP = { device: "vda", target: "/c.qcow2", sync: "full" };
const MIRROR = { device: "vda", target: "/c.qcow2" };
const SNAPSHOT = { device: "vda", "snapshot-file": "/x.qcow2" };
const OVERLAY = { kind: "snapshot", relative: false, reuse: false, overlay: {} };
const TARGET = { device: "vda", file: "/x.qcow2", format: "qcow2" };
const REOPEN = { kind: "reopen", device: "vda", file: "/new.qcow2", format: undefined, force: false };
const OPTIONS = { driver: "qcow2", "node-name": "vda", file: { driver: "file", filename: "/new.qcow2" } };

function copied(parts: object): object[] {
  return [
    { kind: "mirror", targets: [{ ...COPY, ...parts }] },
    { kind: "mirror-cancel", devices: ["vda"] },
  ];
}

function mirrored(parts: object): object[] {
  return [{ kind: "mirror", targets: [{ ...COPY, ...parts }] }];
}

const BITMAP = { node: "vda", name: "b" };
const ON_BITMAP = { devices: ["vda"], bitmap: "b", isDisabled: false, sources: [] };

const TAKEN: readonly (readonly [type: string, data: object | undefined, requests: readonly object[]])[] = [
  ["abort", undefined, [{ kind: "refuse", device: undefined }]],
  ["abort", {}, [{ kind: "refuse", device: undefined }]],
  ["blockdev-snapshot-sync", SNAPSHOT, [{ ...OVERLAY, targets: [TARGET] }]],
  [
    "blockdev-snapshot-sync",
    { "node-name": "vda", "snapshot-file": "/x.qcow2", format: "qcow2", mode: "absolute-paths" },
    [{ ...OVERLAY, targets: [TARGET] }],
  ],
  [
    "blockdev-snapshot-sync",
    { ...SNAPSHOT, "snapshot-file": "y.qed", format: "qed", mode: "existing", "snapshot-node-name": "n" },
    [{ ...OVERLAY, reuse: true, targets: [{ device: "vda", file: "/srv/guests/y.qed", format: "qed" }] }],
  ],
  [
    "blockdev-snapshot",
    { node: "vda", overlay: "/x.qcow2" },
    [{ ...OVERLAY, reuse: true, targets: [TARGET] }],
  ],
  [
    "blockdev-snapshot",
    { node: "vda", overlay: "over.qcow2" },
    [{ ...OVERLAY, reuse: true, targets: [{ ...TARGET, file: "/srv/guests/over.qcow2" }] }],
  ],
  ["drive-backup", BACKUP, copied({})],
  ["drive-backup", { ...BACKUP, sync: "top", format: "qcow2" }, copied({ sync: "top", format: "qcow2" })],
  ["drive-backup", { ...BACKUP, mode: "existing" }, copied({ reuse: true })],
  ["drive-backup", { ...BACKUP, compress: true, speed: 0 }, copied({ compressed: true })],
  [
    "drive-backup",
    {
      ...BACKUP,
      "job-id": "j",
      "on-source-error": "report",
      "on-target-error": "report",
      "auto-finalize": true,
      "auto-dismiss": false,
      "filter-node-name": "f",
      "x-perf": { "use-copy-range": true, "max-workers": 4, "max-chunk": 0 },
      mode: "absolute-paths",
    },
    copied({}),
  ],
  ["blockdev-backup", BACKUP, copied({ reuse: true })],
  ["blockdev-backup", { ...BACKUP, target: "c.raw" }, copied({ reuse: true, file: "/srv/guests/c.raw" })],
  ["drive-mirror", { ...MIRROR, sync: "full" }, mirrored({})],
  ["drive-mirror", MIRROR, mirrored({})],
  ["drive-mirror", { device: "vda", dest: "/c.qcow2", format: "raw" }, mirrored({ format: "raw" })],
  ["drive-mirror", { ...MIRROR, full: false }, mirrored({ sync: "top" })],
  ["drive-mirror", { ...MIRROR, full: true }, mirrored({})],
  ["drive-mirror", { ...MIRROR, sync: "none", mode: "existing" }, mirrored({ sync: "none", reuse: true })],
  [
    "drive-mirror",
    {
      ...MIRROR,
      granularity: 65_536,
      "buf-size": 1024,
      "copy-mode": "write-blocking",
      unmap: false,
      "node-name": "n",
      "job-id": "j",
    },
    mirrored({}),
  ],
  ["drive-reopen", { device: "vda", source: "/new.qcow2" }, [REOPEN]],
  [
    "drive-reopen",
    { device: "vda", "new-image-file": "new.raw", format: "raw" },
    [{ ...REOPEN, file: "/srv/guests/new.raw", format: "raw" }],
  ],
  [
    "drive-migrate",
    { device: "vda", dest: "/d/a.qcow2", "new-source": "a1.qcow2" },
    [
      {
        kind: "migrate",
        device: "vda",
        dest: "/d/a.qcow2",
        destFormat: "qcow2",
        newSource: "/srv/guests/a1.qcow2",
        sourceFormat: "qcow2",
        relative: false,
      },
    ],
  ],
  [
    "drive-migrate",
    { device: "vda", dest: "/a", "dest-format": "raw", "new-source": "/b", "source-format": "qed" },
    [
      {
        kind: "migrate",
        device: "vda",
        dest: "/a",
        destFormat: "raw",
        newSource: "/b",
        sourceFormat: "qed",
        relative: false,
      },
    ],
  ],
  [
    "blockdev-snapshot-internal-sync",
    { device: "vda", name: "s" },
    [{ kind: "internal-snapshot-create", devices: ["vda"], snapshot: "s" }],
  ],
  [
    "block-dirty-bitmap-add",
    { ...BITMAP, granularity: 65536, persistent: true, disabled: true },
    [{ ...ON_BITMAP, kind: "bitmap-add", granularityBytes: 65536, isDisabled: true }],
  ],
  ["block-dirty-bitmap-add", { ...BITMAP, persistent: true }, [{ ...ON_BITMAP, kind: "bitmap-add" }]],
  ["block-dirty-bitmap-remove", BITMAP, [{ ...ON_BITMAP, kind: "bitmap-remove" }]],
  ["block-dirty-bitmap-clear", BITMAP, [{ ...ON_BITMAP, kind: "bitmap-clear" }]],
  ["block-dirty-bitmap-enable", BITMAP, [{ ...ON_BITMAP, kind: "bitmap-enable" }]],
  ["block-dirty-bitmap-disable", BITMAP, [{ ...ON_BITMAP, kind: "bitmap-disable" }]],
  [
    "block-dirty-bitmap-merge",
    { node: "vda", target: "b", bitmaps: ["c", { node: "vdb", name: "d" }] },
    [{ ...ON_BITMAP, kind: "bitmap-merge", sources: [{ bitmap: "c" }, { bitmap: "d", device: "vdb" }] }],
  ],
  ["blockdev-freeze", { device: "vda" }, [{ kind: "freeze", devices: ["vda"], strict: false }]],
  ["blockdev-unfreeze", { device: "vda" }, [{ kind: "unfreeze", devices: ["vda"], force: false }]],
  ["blockdev-reopen", { options: [OPTIONS] }, [{ ...REOPEN, format: "qcow2" }]],
  [
    "blockdev-reopen",
    {
      options: [
        { driver: "raw", "node-name": "vdb", "file.filename": "b.raw", "file.driver": "file" },
        {
          ...OPTIONS,
          "read-only": false,
          discard: "unmap",
          "detect-zeroes": "off",
          "auto-read-only": true,
          cache: { direct: true, "no-flush": false },
          file: { driver: "file", filename: "/new.qcow2", "node-name": "below", aio: "native" },
        },
      ],
    },
    [
      { ...REOPEN, device: "vdb", file: "/srv/guests/b.raw", format: "raw" },
      { ...REOPEN, format: "qcow2" },
    ],
  ],
];

describe.each(["in a transaction", "as a command"])("%s", (how) => {
  const isCommand = how === "as a command";
  const cases = TAKEN.filter(([type]) => !isCommand || type !== "abort");

  test.each(cases)("%s with %j becomes a request", async (type, data, expected) => {
    const batch = isCommand ? { execute: type, arguments: data } : [{ type, ...(data && { data }) }];
    const { status, stderr, requests, answers } = await runQmp(batch);
    expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
    expect(requests).toEqual(expected);
    expect(answers).toEqual([{ return: {} }]);
  });
});

const REFUSED: readonly (readonly [type: string, data: unknown, status: number, says: string])[] = [
  ["blockdev-snapshot-sync", undefined, 64, "data: is missing"],
  ["blockdev-snapshot-sync", [], 64, "data: is not an object"],
  ["blockdev-snapshot-sync", null, 64, "data: is not an object"],
  ["blockdev-snapshot-sync", { device: "vda" }, 64, "data.snapshot-file: is missing"],
  ["blockdev-snapshot-sync", { ...SNAPSHOT, "snapshot-file": "" }, 64, "data.snapshot-file: is empty"],
  ["blockdev-snapshot-sync", { ...SNAPSHOT, device: 3 }, 64, "data.device: is not a string"],
  ["blockdev-snapshot-sync", { ...SNAPSHOT, device: "" }, 64, "data.device: is empty"],
  ["blockdev-snapshot-sync", { "snapshot-file": "x" }, 64, "data: one of device and node-name"],
  ["blockdev-snapshot-sync", { ...SNAPSHOT, "node-name": "n" }, 64, "data: one of device and node-name"],
  ["blockdev-snapshot-sync", { ...SNAPSHOT, mode: "new" }, 64, "data.mode: 'new' is none of absolute-paths"],
  ["blockdev-snapshot-sync", { ...SNAPSHOT, format: null }, 64, "data.format: is not a string"],
  ["blockdev-snapshot-sync", { ...SNAPSHOT, mood: "x" }, 12, "data: member 'mood' is not supported"],
  ["blockdev-snapshot-sync", { ...SNAPSHOT, __proto: {} }, 12, "data: member '__proto' is not supported"],
  [
    "blockdev-snapshot-sync",
    { ...SNAPSHOT, "snapshot-file": "nbd:localhost:10809" },
    12,
    "data.snapshot-file: 'nbd:localhost:10809' names a protocol",
  ],
  ["blockdev-snapshot", { node: "vda" }, 64, "data.overlay: is missing"],
  ["blockdev-snapshot-internal-sync", { device: "vda" }, 64, "data.name: is missing"],
  [
    "block-dirty-bitmap-add",
    { node: "vda", name: "b" },
    12,
    "data.persistent: a bitmap that is not persistent",
  ],
  ["block-dirty-bitmap-add", { ...BITMAP, granularity: 1000, persistent: true }, 64, "power of 2"],
  ["block-dirty-bitmap-clear", { node: "vda" }, 64, "data.name: is missing"],
  ["block-dirty-bitmap-merge", { node: "vda", target: "b", bitmaps: [] }, 64, "data.bitmaps: is empty"],
  [
    "block-dirty-bitmap-merge",
    { node: "vda", target: "b", bitmaps: [3] },
    64,
    "bitmaps[0]: is not an object",
  ],
  ["drive-backup", {}, 64, "data.device: is missing"],
  ["drive-backup", { device: "vda", target: "/c" }, 64, "data.sync: is missing"],
  ["drive-backup", { ...BACKUP, sync: "half" }, 64, "data.sync: 'half' is none of full, top, none"],
  ["drive-backup", { ...BACKUP, sync: "none" }, 12, "data.sync: 'none' copies what a running guest"],
  [
    "drive-backup",
    { ...BACKUP, sync: "incremental" },
    12,
    "data.sync: 'incremental': imgtx makes no copy by a bitmap",
  ],
  ["drive-backup", { ...BACKUP, sync: "bitmap" }, 12, "data.sync: 'bitmap': imgtx makes no copy by a bitmap"],
  ["drive-backup", { ...BACKUP, bitmap: "b" }, 12, "data.bitmap: imgtx makes no copy by a bitmap"],
  [
    "drive-backup",
    { ...BACKUP, "bitmap-mode": "never" },
    12,
    "data.bitmap-mode: imgtx makes no copy by a bitmap",
  ],
  ["drive-backup", { ...BACKUP, speed: 1 }, 12, "data.speed: a limit of its own"],
  ["drive-backup", { ...BACKUP, speed: -1 }, 64, "data.speed: can't be -1"],
  ["drive-backup", { ...BACKUP, speed: 0.5 }, 64, "data.speed: can't be 0.5"],
  ["drive-backup", { ...BACKUP, speed: "1" }, 64, "data.speed: is not a number"],
  ["drive-backup", { ...BACKUP, compress: 1 }, 64, "data.compress: is neither true nor false"],
  ["drive-backup", { ...BACKUP, "on-source-error": "ignore" }, 12, "data.on-source-error: 'ignore' would"],
  ["drive-backup", { ...BACKUP, "on-target-error": "stop" }, 12, "data.on-target-error: 'stop' would"],
  ["drive-backup", { ...BACKUP, "auto-finalize": false }, 12, "data.auto-finalize: a copy of imgtx"],
  ["drive-backup", { ...BACKUP, "x-perf": { turbo: true } }, 12, "data.x-perf: member 'turbo'"],
  ["drive-backup", { ...BACKUP, target: "json:{}" }, 12, "data.target: 'json:{}' names a protocol"],
  ["blockdev-backup", { ...BACKUP, mode: "existing" }, 12, "data: member 'mode'"],
  ["blockdev-backup", { ...BACKUP, format: "raw" }, 12, "data: member 'format'"],
  ["drive-mirror", { ...MIRROR, sync: "full", full: true }, 64, "data.full: stands beside sync"],
  ["drive-mirror", { ...MIRROR, sync: "incremental" }, 12, "data.sync: 'incremental'"],
  ["drive-mirror", { ...MIRROR, replaces: "n" }, 12, "data.replaces: imgtx has no graph"],
  ["drive-mirror", { ...MIRROR, "copy-mode": "fast" }, 64, "data.copy-mode: 'fast' is none of"],
  ["drive-mirror", { device: "vda" }, 64, "data.target: is missing"],
  ["drive-reopen", { device: "vda" }, 64, "data: one of source and new-image-file"],
  ["drive-reopen", { device: "vda", source: "a", "new-image-file": "a" }, 64, "data: one of source and"],
  ["drive-migrate", { device: "vda", dest: "a" }, 64, "data.new-source: is missing"],
  ["blockdev-freeze", { device: ["vda"] }, 64, "data.device: is not a string"],
  ["blockdev-unfreeze", {}, 64, "data.device: is missing"],
  ["blockdev-reopen", { options: [] }, 64, "data.options: is empty"],
  ["blockdev-reopen", { options: {} }, 64, "data.options: is not a list"],
  ["blockdev-reopen", { options: [{ ...OPTIONS, driver: "vmdk" }] }, 64, "data.options[0].driver: 'vmdk'"],
  ["blockdev-reopen", { options: [{ ...OPTIONS, file: "f" }] }, 12, "data.options[0].file: it names a node"],
  ["blockdev-reopen", { options: [OPTIONS, { ...OPTIONS, backing: null }] }, 12, "data.options[1].backing"],
  ["blockdev-reopen", { options: [{ ...OPTIONS, "read-only": true }] }, 12, "data.options[0].read-only"],
  ["blockdev-reopen", { options: [{ ...OPTIONS, "lazy-refcounts": true }] }, 12, "'lazy-refcounts'"],
  [
    "blockdev-reopen",
    { options: [{ ...OPTIONS, file: { driver: "nbd", filename: "x" } }] },
    64,
    "data.options[0].file.driver: 'nbd'",
  ],
  ["format-c", {}, 12, "actions[1]: type 'format-c' is not supported"],
  [
    "block-commit",
    {},
    12,
    "actions[1]: type 'block-commit' is no action of QMP's transaction: in QEMU it is a job",
  ],
  ["toString", {}, 12, "actions[1]: type 'toString' is not supported"],
];

test.each(REFUSED)("%s with %j is refused with %i: %s", async (type, data, status, says) => {
  const first = { type: "drive-reopen", data: { device: "vdz", source: "/z" } };
  const result = await runQmp([first, { type, data }]);
  expect({ status: result.status, calls: result.calls }).toEqual({ status, calls: [] });
  expect(result.stderr).toContain(`error: actions[1]`);
  expect(result.stderr).toContain(says);
  expect(result.answers).toEqual([{ error: { class: "GenericError", desc: expect.stringContaining(says) } }]);
});

describe("a name", () => {
  test("that an earlier action gave to a node is refused, whatever device is called so", async () => {
    const { status, stderr, calls } = await runQmp([
      { type: "blockdev-snapshot-sync", data: { ...SNAPSHOT, "snapshot-node-name": "vdb" } },
      { type: "drive-reopen", data: { device: "vdb", source: "/z" } },
    ]);
    expect({ status, calls }).toEqual({ status: 12, calls: [] });
    expect(stderr).toContain(
      "actions[1].data.device: 'vdb' is a node, by actions[0].data.snapshot-node-name, and imgtx keeps no",
    );
  });

  test("of a device is meant before a file of that name", async () => {
    const devices = [
      makeDevice({ name: "vda", image: "/a.qcow2" }),
      makeDevice({ name: "over", image: "/x.qcow2" }),
    ];
    const { requests } = await runQmp(
      [
        { type: "blockdev-snapshot", data: { node: "vda", overlay: "over" } },
        { type: "blockdev-backup", data: { device: "vdb", target: "over", sync: "top" } },
      ],
      { devices },
    );
    expect(requests).toEqual([
      { ...OVERLAY, reuse: true, targets: [TARGET] },
      {
        kind: "mirror",
        targets: [{ ...COPY, device: "vdb", file: "/x.qcow2", sync: "top", reuse: true }],
      },
      { kind: "mirror-cancel", devices: ["vdb"] },
    ]);
  });
});

describe("copies side by side", () => {
  const backup = (device: string, target: string) => ({
    type: "drive-backup",
    data: { device, target, sync: "full" },
  });

  test("are one request, and only the backups are forgotten", async () => {
    const { requests } = await runQmp([
      backup("vda", "/a"),
      { type: "drive-mirror", data: { device: "vdb", target: "/b" } },
      backup("vdc", "/c"),
    ]);
    expect(requests).toMatchObject([
      {
        kind: "mirror",
        targets: [
          { device: "vda", file: "/a" },
          { device: "vdb", file: "/b" },
          { device: "vdc", file: "/c" },
        ],
      },
      { kind: "mirror-cancel", devices: ["vda", "vdc"] },
    ]);
  });

  test("of one device are made one after the other", async () => {
    const { requests } = await runQmp([backup("vda", "/a"), backup("vda", "/b")]);
    expect(requests).toMatchObject([
      { kind: "mirror", targets: [{ file: "/a" }] },
      { kind: "mirror-cancel", devices: ["vda"] },
      { kind: "mirror", targets: [{ file: "/b" }] },
      { kind: "mirror-cancel", devices: ["vda"] },
    ]);
  });

  test.each([
    [
      "is kept already",
      [],
      [makeDevice({ mirror: { image: "/m", format: "raw", sync: "full", syncedAt: null } })],
    ],
    ["is made just before", [{ type: "drive-mirror", data: MIRROR }], []],
  ])("are refused as a backup where a mirror of the device %s", async (_, before, devices) => {
    const { status, stderr, calls } = await runQmp([...before, backup("vda", "/a")], { devices });
    expect({ status, calls }).toEqual({ status: 14, calls: [] });
    expect(stderr).toContain("vda: it has a mirror");
    expect(stderr).toContain("hint: bring the mirror in sync");
  });
});
