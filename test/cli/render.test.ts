// What results and errors look like, as text and as JSON, and that no name can steer a terminal.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../src/errors/index.ts";
import { colorLevel } from "../../src/cli/render/canvas.ts";
import { definitionList, wrap } from "../../src/cli/render/layout.ts";
import { printable, printableJson } from "../../src/cli/render/printable.ts";
import {
  makeAction,
  makeDevice,
  makeOutcome,
  makeTransaction,
  recordingEngine,
  runCli,
  type RunSetting,
} from "./harness.ts";

const UTF8 = { LANG: "C.UTF-8" };

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
          mirror: null,
          transaction: null,
          view: "/srv/guests/devices/vda",
          problem: null,
        },
      ],
    });
  });

  test("of device list and tree has the generation, of device show the device", async () => {
    const engine = {
      describeDevices: async () => ({ generation: 3, devices: [makeDevice({})] }),
    };
    for (const argv of [
      ["device", "list"],
      ["tree", "vda"],
    ]) {
      const { stdout } = await runCli([...argv, "--output=json"], { engine });
      expect(JSON.parse(stdout)).toMatchObject({ schema: 1, generation: 3, devices: [{ name: "vda" }] });
    }
    const { stdout } = await runCli(["device", "show", "vda", "--output=json"], { engine });
    const shown = JSON.parse(stdout) as object;
    expect(Object.keys(shown)).toEqual(["schema", "device"]);
    expect(shown).toMatchObject({ device: { "virtual-size": 10737418240 } });
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

  test("of history has every generation with its devices", async () => {
    const engine = {
      listGenerations: async () => [
        {
          generation: 2,
          committed: "2012-03-05T14:03:11.000Z",
          transaction: "7f3k2m9qa1",
          summary: "snapshot vda",
          devices: [{ name: "vda", image: "/a", format: "raw" as const }],
          present: true,
        },
      ],
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
          summary: "snapshot vda",
          devices: [{ name: "vda", image: "/a", format: "raw" }],
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

describe("an error for people", () => {
  test("says what, where, whether anything changed, and how to mend it", async () => {
    const error = new ImgtxError("E_CORRUPT", "L2 entry points past the end of the image", {
      device: "vdb",
      image: "b.qcow2",
      offset: 0x30000,
      field: "l2_entry",
      hint: "run `imgtx img check b.qcow2`",
    });
    expect((await failWith(error)).stderr).toBe(
      [
        "error: vdb: L2 entry points past the end of the image",
        "  at: b.qcow2, offset 0x30000, l2_entry",
        "  No disk was changed.",
        "  hint: run `imgtx img check b.qcow2`",
        "",
      ].join("\n"),
    );
  });

  test("says it when something stays changed, and when the rest is the next command's", async () => {
    const changed = await failWith(new ImgtxError("E_IO", "lost", { changed: true }));
    expect(changed.stderr).toContain("What was done before stays done.");
    const unfinished = await failWith(new ImgtxError("E_UNFINISHED", "disk failed"));
    expect(unfinished).toMatchObject({ status: 16 });
    expect(unfinished.stderr).toContain("committed and durable; the next imgtx command finishes it");
  });

  test("has its causes under --verbose only", async () => {
    const error = new ImgtxError("E_IO", "can't write", { cause: new Error("EIO: \u001b[31m") });
    expect((await failWith(error)).stderr).not.toContain("EIO");
    expect((await failWith(error, ["-v"])).stderr).toContain("  cause: EIO: \\u{1b}[31m\n");
  });

  test("that nobody foresaw is called a bug, with its stack under --verbose", async () => {
    const bug = new TypeError("x is not a function");
    const short = await failWith(bug);
    expect(short.status).toBe(1);
    expect(short.stderr).toContain("error: this is a bug in imgtx: x is not a function\n");
    expect(short.stderr).not.toContain("render.test.ts");
    expect((await failWith(bug, ["--verbose"])).stderr).toContain("render.test.ts");
    const { error } = JSON.parse((await failWith(bug, ["--json"])).stderr) as { error: object };
    expect(error).toMatchObject({ code: "E_INTERNAL", changed: null });
  });
});

describe("names with control characters", () => {
  const evil = "/srv/a\n\u001b]0;x\u0007\u009b2J\u202egpj.\u2028\ud800";

  test("reach the terminal as visible escapes, in results, notes and errors", async () => {
    const outcome = makeOutcome({
      transaction: `t${evil}`,
      pending: true,
      actions: [makeAction({ device: evil, before: evil, after: evil, notes: [evil] })],
      devices: [makeDevice({ name: evil, chain: [{ image: evil, format: "raw" }], problem: evil })],
    });
    const engine = {
      ...recordingEngine(outcome).engine,
      openSession: async () =>
        ({ root: evil, recovered: [{ transaction: evil, did: "undone", text: evil }] }) as never,
      listTransactions: async () => [makeTransaction({ name: evil, devices: [evil], savepoints: [evil] })],
      describeDevices: async () => ({ generation: 1, devices: [makeDevice({ name: evil, image: evil })] }),
      listGenerations: async () => [
        {
          generation: 1,
          committed: evil,
          transaction: evil,
          summary: evil,
          devices: [],
          present: true,
        },
      ],
    };
    for (const argv of [
      ["rollback"],
      ["txn", "status"],
      ["txn", "list"],
      ["txn", "show"],
      ["device", "list"],
      ["device", "list", "-q"],
      ["tree"],
      ["history"],
      ["history", "--json"],
      ["snapshot", evil],
      [evil],
      [`--${evil}`],
      ["help", evil],
    ]) {
      const { stdout, stderr } = await runCli(argv, { engine, env: UTF8 });
      expect(stdout + stderr, argv.join(" ")).not.toMatch(/[^\P{C}\n]|[\u2028\u2029]/u);
    }
    const { stderr } = await failWith(
      new ImgtxError("E_IO", evil, { device: evil, image: evil, field: evil, hint: evil }),
    );
    expect(stderr).not.toMatch(/[^\P{C}\n]|[\u2028\u2029]/u);
    expect(stderr.split("\n")).toHaveLength(5);
  });

  test("come out of JSON as they were", () => {
    const text = printableJson({ name: evil }, 2);
    expect(text).not.toMatch(/[^\P{C}\n]|[\u2028\u2029]/u);
    expect(JSON.parse(text)).toEqual({ name: evil });
  });

  test("ordinary names are left alone", () => {
    for (const name of ["a b", "ä€𝄞", "日本", "a\\b", "it's"]) expect(printable(name)).toBe(name);
  });
});

describe("--quiet", () => {
  test("is silent on success, but not about recovery, and not about what was asked for", async () => {
    const engine = {
      ...recordingEngine().engine,
      describeDevices: async () => ({
        generation: 1,
        devices: [makeDevice({}), makeDevice({ name: "vdb" })],
      }),
      listTransactions: async () => [makeTransaction({})],
      beginTransaction: async () => ({
        description: makeTransaction({}),
        release: async () => undefined,
      }),
    };
    expect(await runCli(["rollback", "-q"], { engine })).toEqual({ status: 0, stdout: "", stderr: "" });
    expect((await runCli(["device", "list", "-q"], { engine })).stdout).toBe("vda\nvdb\n");
    expect((await runCli(["txn", "list", "-q"], { engine })).stdout).toBe("7f3k2m9qa1\n");
    expect((await runCli(["txn", "begin", "-q"], { engine })).stdout).toBe("7f3k2m9qa1\n");
    const openSession = async () =>
      ({ root: "/w", recovered: [{ transaction: "t1", did: "undone", text: "undid t1" }] }) as never;
    expect((await runCli(["recover", "-q"], { engine: { openSession } })).stderr).toBe("imgtx: undid t1\n");
  });
});

describe("colour", () => {
  const terminal = { isTTY: true };
  test.each([
    [terminal, { TERM: "xterm" }, false, 1],
    [terminal, { TERM: "xterm-256color" }, false, 2],
    [terminal, { TERM: "xterm", COLORTERM: "truecolor" }, false, 3],
    [terminal, { TERM: "xterm" }, true, 0],
    [terminal, { TERM: "dumb" }, false, 0],
    [terminal, { TERM: "xterm", NO_COLOR: "1" }, false, 0],
    [terminal, { TERM: "xterm", NO_COLOR: "" }, false, 1],
    [terminal, { TERM: "xterm", NO_COLOR: "1", FORCE_COLOR: "3" }, false, 0],
    [terminal, { TERM: "xterm", CI: "true" }, false, 0],
    [{ isTTY: false }, { TERM: "xterm" }, false, 0],
    [{ isTTY: false }, { FORCE_COLOR: "1" }, false, 1],
    [{ isTTY: false }, { FORCE_COLOR: "3" }, false, 3],
    [{ isTTY: false }, { FORCE_COLOR: "0" }, false, 0],
    [{ isTTY: false }, { FORCE_COLOR: "1" }, true, 0],
  ])("%j with %j, refused: %s, has level %i", (output, env, refused, level) => {
    expect(colorLevel(output, env, refused)).toBe(level);
  });

  test("is on a terminal and not in a pipe", async () => {
    const engine = { describeDevices: async () => ({ generation: 1, devices: [makeDevice({})] }) };
    const env = { TERM: "xterm" };
    expect((await runCli(["tree"], { engine, env, terminal: 80 })).stdout).toContain("\u001b[");
    expect((await runCli(["tree"], { engine, env })).stdout).not.toContain("\u001b[");
    expect((await runCli(["tree", "--no-color"], { engine, env, terminal: 80 })).stdout).not.toContain(
      "\u001b[",
    );
  });
});

describe("width", () => {
  test("a table becomes records where it does not fit", async () => {
    const engine = { describeDevices: async () => ({ generation: 1, devices: [makeDevice({})] }) };
    const env = { NO_COLOR: "1" };
    const wide = await runCli(["device", "list"], { engine, env, terminal: 80 });
    const narrow = await runCli(["device", "list"], { engine, env, terminal: 40 });
    expect(wide.stdout).toMatch(/^NAME +FORMAT +SIZE/);
    expect(narrow.stdout).toBe(
      [
        "vda",
        "  format: qcow2",
        "  size: 10 GiB",
        "  images: 2",
        "  state: ok",
        "  image: /srv/guests/a1.qcow2",
        "",
      ].join("\n"),
    );
  });

  test("a word that is too long sticks out whole, so that it can be copied", () => {
    expect(wrap("see /a/very/long/path here", 8)).toEqual(["see", "/a/very/long/path", "here"]);
    expect(definitionList([{ term: "--a-long-option", about: "what it does" }], 20)).toEqual([
      "--a-long-option",
      "     what it does",
    ]);
  });
});

describe("a chain", () => {
  async function draw(devices: ReturnType<typeof makeDevice>[], setting: RunSetting = {}) {
    const engine = { describeDevices: async () => ({ generation: 1, devices }) };
    return (await runCli(["tree"], { engine, ...setting })).stdout;
  }

  test("is drawn from the active layer down, and says where others use an image", async () => {
    const base = { image: "/srv/base.raw", format: "raw" as const };
    const stdout = await draw(
      [
        makeDevice({ chain: [{ image: "/srv/guests/a1.qcow2", format: "qcow2" }, base] }),
        makeDevice({ name: "vdb", chain: [{ image: "/b", format: "qcow2" }, base], frozen: true }),
      ],
      { env: UTF8 },
    );
    expect(stdout).toBe(
      [
        "vda  10 GiB",
        "├─ /srv/guests/a1.qcow2  qcow2, active layer",
        "└─ /srv/base.raw         raw, base, also under vdb",
        "",
        "vdb  10 GiB, frozen",
        "├─ /b             qcow2, active layer",
        "└─ /srv/base.raw  raw, base, also under vda",
        "",
      ].join("\n"),
    );
  });

  test("is drawn in ASCII where the locale has no more", async () => {
    expect(await draw([makeDevice({})])).toContain("|- /srv/guests/a1.qcow2");
    expect(await draw([makeDevice({})])).toContain("`- /srv/guests/a.qcow2");
  });

  test("that can't be opened ends in the reason", async () => {
    const stdout = await draw([makeDevice({ chain: [], virtualSizeBytes: null, problem: "no such file" })]);
    expect(stdout).toBe("vda\n|- /srv/guests/a1.qcow2  qcow2, active layer\n`- no such file\n");
  });
});

async function failWith(error: Error, options: readonly string[] = []) {
  const engine = {
    runActions: () => {
      throw error;
    },
  };
  return runCli(["rollback", ...options], { engine });
}
