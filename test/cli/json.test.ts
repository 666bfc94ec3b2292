// The JSON of results and errors: the keys of the contract, and one object on each output.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../src/errors/index.ts";
import {
  failWith,
  makeAction,
  makeDevice,
  makeOutcome,
  makeTransaction,
  recordingEngine,
  runCli,
} from "../helpers/cli/harness.ts";

describe("JSON", () => {
  test("of an action has the keys of the contract, and is one object", async () => {
    const outcome = makeOutcome({ actions: [makeAction({})], devices: [makeDevice({})] });
    const { engine } = recordingEngine(outcome);
    const { stdout, stderr } = await runCli(["snapshot", "vda", "a1.qcow2", "--json"], { engine });
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual({
      schema: 1,
      changed: true,
      "dry-run": false,
      transaction: "7f3k2m9qa1",
      pending: false,
      kept: [],
      generation: 4,
      actions: [
        {
          kind: "snapshot",
          device: "vda",
          before: "/srv/guests/a.qcow2",
          after: "/srv/guests/a1.qcow2",
          format: "qcow2",
          files: [{ path: "/srv/guests/a1.qcow2", change: "create" }],
          notes: [],
          "copied-bytes": null,
          "rotted-bytes": null,
        },
      ],
      devices: [
        {
          name: "vda",
          image: "/srv/guests/a1.qcow2",
          format: "qcow2",
          "virtual-size": 10737418240,
          chain: [
            { image: "/srv/guests/a1.qcow2", format: "qcow2" },
            { image: "/srv/guests/a.qcow2", format: "qcow2" },
          ],
          frozen: false,
          "frozen-since": null,
          "frozen-by": null,
          fences: [],
          mirror: null,
          transaction: null,
          view: "/srv/guests/devices/vda",
          problem: null,
          state: "ok",
          problems: [],
        },
      ],
    });
  });

  test("of device list has the generation, of device show the device", async () => {
    const engine = {
      describeDevices: async () => ({ generation: 3, devices: [makeDevice({})] }),
    };
    const list = await runCli(["device", "list", "--output=json"], { engine });
    expect(JSON.parse(list.stdout)).toMatchObject({ schema: 1, generation: 3, devices: [{ name: "vda" }] });
    const { stdout } = await runCli(["device", "show", "vda", "--output=json"], { engine });
    const shown = JSON.parse(stdout) as object;
    expect(Object.keys(shown)).toEqual(["schema", "device"]);
    expect(shown).toMatchObject({ device: { "virtual-size": 10737418240 } });
  });

  test("of a device has the unfinished copy, as the text does", async () => {
    const unfinishedCopy = { image: "/srv/copies/a.qcow2", copiedBytes: 3 * 1024 ** 3 };
    const engine = {
      describeDevices: async () => ({ generation: 3, devices: [makeDevice({ unfinishedCopy })] }),
    };
    const { stdout } = await runCli(["device", "show", "vda", "--json"], { engine });
    const copy = { image: "/srv/copies/a.qcow2", copied: 3221225472 };
    expect(JSON.parse(stdout)).toMatchObject({ device: { "unfinished-copy": copy } });
    const shown = await runCli(["device", "show", "vda"], { engine });
    expect(shown.stdout).toContain("unfinished copy /srv/copies/a.qcow2 (3 GiB so far)\n");
  });

  test("of txn status has the transactions, with --txn that one alone", async () => {
    const engine = {
      listTransactions: async () => [
        makeTransaction({}),
        makeTransaction({ id: "other", name: "nightly", savepoints: ["half"] }),
      ],
    };
    const all = await runCli(["txn", "status", "--json"], { engine });
    expect(JSON.parse(all.stdout)).toMatchObject({
      schema: 1,
      transactions: [
        {
          id: "7f3k2m9qa1",
          name: null,
          state: "open",
          started: "2012-03-05T14:03:11.000Z",
          devices: ["vda"],
          actions: [{ kind: "snapshot", device: "vda" }],
        },
        { id: "other" },
      ],
    });
    for (const wanted of ["other", "nightly"]) {
      const one = await runCli(["txn", "status", "--json", "--txn", wanted], { engine });
      const { transactions } = JSON.parse(one.stdout) as { transactions: object[] };
      expect(transactions).toMatchObject([{ id: "other", savepoints: ["half"], "on-error": "keep" }]);
    }
  });

  test("of history has every generation with the commit that made it", async () => {
    const engine = {
      listGenerations: async () => ({
        generation: 2,
        generations: [
          {
            generation: 2,
            committed: "2012-03-05T14:03:11.000Z",
            transaction: "7f3k2m9qa1",
            name: "nightly",
            summary: "rollback vda to mon",
            actions: [
              {
                kind: "rollback",
                devices: ["vda"],
                snapshot: { number: 1, name: "mon" },
                generation: null,
                givenUp: [{ number: 2, name: null }],
              },
            ],
            devices: [
              {
                device: "vda",
                before: { image: "/a", format: "raw" as const },
                after: { image: "/b", format: "qcow2" as const },
                mirror: { before: "/m", after: null },
              },
            ],
            present: true,
            undo: false,
            undoForced: false,
            redo: false,
            problem: null,
          },
        ],
      }),
    };
    const { stdout } = await runCli(["history", "--json"], { engine });
    expect(JSON.parse(stdout)).toEqual({
      schema: 1,
      generation: 2,
      generations: [
        {
          generation: 2,
          present: true,
          committed: "2012-03-05T14:03:11.000Z",
          transaction: "7f3k2m9qa1",
          name: "nightly",
          summary: "rollback vda to mon",
          actions: [
            {
              kind: "rollback",
              devices: ["vda"],
              snapshot: { number: 1, name: "mon" },
              generation: null,
              "snapshots-given-up": [{ number: 2, name: null }],
            },
          ],
          devices: [
            {
              device: "vda",
              before: "/a",
              after: "/b",
              format: "qcow2",
              mirror: { before: "/m", after: null },
            },
          ],
          undo: false,
          "undo-forced": false,
          redo: false,
          problem: null,
        },
      ],
    });
  });

  test("of an error is one line on stderr, with every key of the contract", async () => {
    const error = new ImgtxError("E_CORRUPT", "L2 entry points past the end", {
      device: "vdb",
      image: "/b.qcow2",
      offset: 0x30000,
      field: "l2_entry",
      hint: "check it",
    });
    const { status, stdout, stderr } = await failWith(error, ["--json"]);
    expect({ status, stdout }).toEqual({ status: 15, stdout: "" });
    expect(stderr).toMatch(/^[^\n]*\n$/);
    expect(JSON.parse(stderr)).toEqual({
      schema: 1,
      error: {
        code: "E_CORRUPT",
        message: "L2 entry points past the end",
        device: "vdb",
        image: "/b.qcow2",
        offset: 196608,
        field: "l2_entry",
        hint: "check it",
        changed: false,
      },
    });
  });

  test("notes of recovery come as objects on stderr, before the error", async () => {
    const engine = {
      openSession: async () =>
        ({
          root: "/w",
          recovered: [{ transaction: "t1", did: "undone", text: "undid t1" }],
        }) as never,
      runActions: () => {
        throw new ImgtxError("E_EXISTS", "it exists");
      },
    };
    const { stderr } = await runCli(["rollback", "--json"], { engine });
    const [note, error] = stderr
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as object);
    expect(note).toEqual({
      schema: 1,
      recovered: { transaction: "t1", did: "undone", text: "undid t1" },
    });
    expect(error).toMatchObject({ error: { code: "E_EXISTS" } });
  });
});
