// The device table as bytes: what is written comes back, and what was not written by imgtx is refused.

import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { assertDeviceName, requireDevice, withDevices } from "../../../src/device/index.ts";
import { decodeTable, encodeTable, firstTable } from "../../../src/device/table/device-table.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { device, table } from "../../helpers/device/tables.ts";

const TABLE = table(
  device("vda", "/ws/a1.qcow2", ["a.qcow2", "/ws/a.qcow2"]),
  device("vdb", "/else/where é\n.qcow2"),
);

function decode(bytes: Uint8Array) {
  return decodeTable("/ws", bytes, "/ws/.imgtx/table.json").table;
}

/** Bytes with a right checksum around any content. */
function sign(content: string): Uint8Array {
  const digest = createHash("sha256").update(content).digest("hex");
  return Buffer.from(`{"sha256":"${digest}","table":${content}}\n`);
}

/** The stored form of TABLE with some of it replaced. */
function forge(change: (stored: Record<string, unknown>) => void): Uint8Array {
  const content = JSON.parse(Buffer.from(encodeTable("/ws", TABLE, null)).toString()) as {
    table: Record<string, unknown>;
  };
  change(content.table);
  return sign(JSON.stringify(content.table));
}

describe("a device table", () => {
  test("comes back as it was encoded", () => {
    expect(decode(encodeTable("/ws", TABLE, null))).toEqual(TABLE);
    const first = firstTable("2026-01-02T03:04:05.678Z");
    expect(decode(encodeTable("/ws", first, null))).toEqual(first);
  });

  test("keeps what lies inside the workspace when the workspace was moved", () => {
    const moved = decodeTable("/new/place", encodeTable("/ws", TABLE, null), "table.json").table;
    expect(moved.devices.map(({ image }) => image)).toEqual(["/new/place/a1.qcow2", "/else/where é\n.qcow2"]);
    expect(moved.devices[0]?.chain[1]).toMatchObject({ image: "/new/place/a.qcow2", name: "a.qcow2" });
    expect(moved.allowPaths).toEqual(["/pool", "/new/place/pool"]);
  });

  test("is one line of text that says what it is", () => {
    const text = Buffer.from(encodeTable("/ws", firstTable("2026-01-02T03:04:05.678Z"), null)).toString();
    expect(text).toBe(
      '{"sha256":"eed34460ee708dd872cfc7795c039d6bd423956c7919d44b8854dbc0ad74b43d","table":{"kind":"imgtx device table","version":4,' +
        '"mark":null,"workspaceId":null,"generation":0,"committed":"2026-01-02T03:04:05.678Z","transaction":null,"summary":"init","allowPaths":[],"devices":[],"snapshots":[],"nextSnapshot":1,"images":[]}}\n',
    );
  });

  test("has a version of its own where devices were renamed, which an imgtx that knows of none refuses", () => {
    const named = { ...TABLE, renames: [{ from: "vda", to: "system", below: 7 }] };
    const bytes = encodeTable("/ws", named, null);
    expect(Buffer.from(bytes).toString()).toContain('"version":5');
    expect(decode(bytes)).toEqual(named);
  });

  test("stores an image that several chains have once, and has it once in memory", () => {
    const chains = Array.from(
      { length: 50 },
      (_, depth) => [`b${depth}`, `/pool/${"x".repeat(500)}/b${depth}`] as const,
    );
    const devices = Array.from({ length: 40 }, (_, index) =>
      device(`vd${100 + index}`, `/ws/${index}`, ...chains),
    );
    const bytes = encodeTable("/ws", table(...devices), null);
    expect(bytes.length).toBeLessThan(100 * 1000);
    const decoded = decode(bytes);
    expect(decoded).toEqual(table(...devices));
    const [first, second] = decoded.devices;
    expect(first?.chain[7]).toBe(second?.chain[7]);
    expect(encodeTable("/ws", decoded, null)).toEqual(bytes);
  });

  test("of version 1, with its chains written out, is read as this version has it", () => {
    const stored = { ...TABLE, kind: "imgtx device table", version: 1 };
    const { workspaceId: _id, snapshots: _snapshots, nextSnapshot: _next, ...older } = stored;
    const content = JSON.stringify(older);
    const sha256 = createHash("sha256").update(content).digest("hex");
    const bytes = Buffer.from(`{"sha256":"${sha256}","table":${content}}\n`);
    expect(decodeTable("/ws", bytes, "table.json")).toEqual({
      table: { ...TABLE, workspaceId: null },
      mark: null,
      isEarlier: true,
    });
  });

  test("with a chain whose image is not there is refused", async () => {
    const failure = await failureOf(() =>
      decode(forge((stored) => ((stored["devices"] as { chain: number[] }[])[0]!.chain[0] = 99))),
    );
    expect(failure.code).toBe("E_CORRUPT");
  });

  test("is refused when any byte of it changed, is missing, or was added", async () => {
    const bytes = encodeTable("/ws", TABLE, null);
    for (let at = 0; at < bytes.length; at += 1) {
      const changed = Uint8Array.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 0x10;
      expect((await failureOf(() => decode(changed))).code, `byte ${at} changed`).toBe("E_CORRUPT");
      expect((await failureOf(() => decode(bytes.subarray(0, at)))).code, `cut at ${at}`).toBe("E_CORRUPT");
    }
    for (const added of [
      [...bytes, 0x0a],
      [0xef, 0xbb, 0xbf, ...bytes],
      [0x20, ...bytes],
    ]) {
      expect((await failureOf(() => decode(Uint8Array.from(added)))).code).toBe("E_CORRUPT");
    }
  });

  test("of another version is refused as that, and names the file", async () => {
    const failure = await failureOf(() => decode(forge((stored) => (stored["version"] = 6))));
    expect(failure).toMatchObject({ code: "E_UNSUPPORTED", image: "/ws/.imgtx/table.json" });
    expect(failure.message).toContain("version 6");
  });

  test("of the version before is read, and of its images nothing is known that would be believed", () => {
    const bytes = forge((stored) => (stored["version"] = 1));
    const table = decodeTable("/ws", bytes, "/ws/.imgtx/table.json");
    expect(table).toBeDefined();
  });

  test.each([
    ["another kind", forge((stored) => (stored["kind"] = "grocery list"))],
    ["no devices", forge((stored) => delete stored["devices"])],
    ["a device without a chain", forge((stored) => (stored["devices"] = [{ name: "vda", image: "a" }]))],
    ["a number for a name", forge((stored) => (stored["devices"] = [{ ...device("vda", "a"), name: 7 }]))],
    ["a negative generation", forge((stored) => (stored["generation"] = -1))],
    ["no JSON", sign("{]")],
    ["a list", sign("[]")],
    ["null", sign("null")],
  ])("with a right checksum and %s is refused", async (_, bytes) => {
    expect((await failureOf(() => decode(bytes))).code).toBe("E_CORRUPT");
  });

  test.each([
    ["two devices of one name", [device("vda", "/ws/a"), device("vda", "/ws/b")]],
    ["devices out of order", [device("vdb", "/ws/b"), device("vda", "/ws/a")]],
    ["a name that climbs out of the view", [device("../../x", "/ws/a")]],
    ["a chain of another image", [{ ...device("vda", "/ws/a"), image: "/ws/b" }]],
  ])("with %s is neither written nor read", async (_, devices) => {
    expect(() => encodeTable("/ws", table(...devices), null)).toThrow("not to be written");
    expect((await failureOf(() => decode(forge((stored) => (stored["devices"] = devices))))).code).toBe(
      "E_CORRUPT",
    );
  });
});

describe("devices in a table", () => {
  test("stay sorted when some are set and removed", () => {
    const changed = withDevices(TABLE, [
      { device: "vda", after: null },
      { device: "vd", after: device("vd", "/ws/d") },
      { device: "vdb", after: device("vdb", "/ws/b2") },
    ]);
    expect(changed.devices.map(({ name, image }) => `${name} ${image}`)).toEqual(["vd /ws/d", "vdb /ws/b2"]);
    expect(TABLE.devices.map(({ name }) => name)).toEqual(["vda", "vdb"]);
  });

  test("that are not there are named in the error, with those that are", async () => {
    const failure = await failureOf(() => requireDevice(TABLE, "sda"));
    expect(failure).toMatchObject({ code: "E_NO_DEVICE", device: "sda", hint: "the devices are vda, vdb" });
    expect((await failureOf(() => requireDevice(firstTable(""), "sda"))).hint).toContain("device add");
  });

  test.each(["vda", "0", "_", "a.b", "virtio-disk+1", "x".repeat(64)])("may be called %j", (name) => {
    expect(() => assertDeviceName(name)).not.toThrow();
  });

  test.each(["", ".", "..", "-a", "+a", "a/b", "a b", "é", "a\n", "a=b", "a,b", "x".repeat(65)])(
    "can't be called %j",
    async (name) => {
      expect((await failureOf(() => assertDeviceName(name))).code).toBe("E_USAGE");
    },
  );
});
