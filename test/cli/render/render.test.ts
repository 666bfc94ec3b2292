// What results and errors look like to people, and that no name can steer a terminal.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { colorLevel } from "../../../src/cli/render/canvas.ts";
import { definitionList, wrap } from "../../../src/cli/render/layout.ts";
import { printable, printableJson } from "../../../src/cli/render/printable.ts";
import {
  failWith,
  makeAction,
  makeDevice,
  makeGeneration,
  makeOutcome,
  makeTransaction,
  recordingEngine,
  runCli,
  type RunSetting,
} from "../../helpers/cli/harness.ts";

const UTF8 = { LANG: "C.UTF-8" };

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
    expect(unfinished.stderr).toContain("committed and durable; the next imgtx command goes on with it");
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

describe("a result", () => {
  test("names the image that is changed, and not what changes along with it", async () => {
    const [image, data] = ["/srv/guests/a.qcow2", "/srv/guests/a.data"];
    const files = [data, image].map((path) => ({ path, change: "change" as const }));
    const action = makeAction({ kind: "resize", before: image, after: image, files });
    const { engine } = recordingEngine(makeOutcome({ actions: [action] }));
    const { stdout } = await runCli(["resize", "vda", "2G"], { engine });
    expect(stdout).toContain(`vda: resized: ${image}\n`);
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
      listGenerations: async () => {
        const image = { image: evil, format: "raw" } as const;
        const devices = [
          { device: evil, before: image, after: image, mirror: { before: evil, after: evil } },
        ];
        const named = { committed: evil, transaction: evil, summary: evil, name: evil, problem: evil };
        return { generation: 1, generations: [makeGeneration({ ...named, devices })] };
      },
    };
    for (const argv of [
      ["rollback"],
      ["txn", "status"],
      ["txn", "list"],
      ["txn", "show"],
      ["device", "list"],
      ["device", "list", "-q"],
      ["device", "show", "vda"],
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

test("an abort tells newest first what is undone, and of each device where it stays", async () => {
  const note = "what 'vda' wrote stays in /d/a1";
  const actions = [
    makeAction({ device: "vda", before: "/d/a", after: "/d/a1" }),
    makeAction({ device: "vdb", before: "/d/b", after: "/d/b1" }),
    makeAction({ kind: "rollback", device: "vda", before: "/d/a1", after: "/d/a", notes: [note] }),
  ];
  const engine = { abortTransaction: async () => makeOutcome({ actions }) };
  const { stdout } = await runCli(["txn", "abort"], { engine });
  expect(stdout.split("\n").slice(0, 3)).toEqual([
    "vda: rollback undone",
    "vdb: snapshot undone, stays /d/b",
    "vda: snapshot undone, stays /d/a",
  ]);
});

describe("--quiet", () => {
  test("is silent on success, but not about recovery, and not about what was asked for", async () => {
    const engine = {
      ...recordingEngine().engine,
      // The stand-in fails on anything else: for names alone no image is looked at.
      listDeviceNames: async () => ["vda", "vdb"],
      nameSnapshots: async () => [
        { number: 2, name: "mon" },
        { number: 1, name: null },
      ],
      listTransactions: async () => [makeTransaction({})],
      beginTransaction: async () => ({
        description: makeTransaction({}),
        release: async () => undefined,
      }),
    };
    expect(await runCli(["rollback", "-q"], { engine })).toEqual({ status: 0, stdout: "", stderr: "" });
    expect((await runCli(["device", "list", "-q"], { engine })).stdout).toBe("vda\nvdb\n");
    expect((await runCli(["snapshot-list", "-q"], { engine })).stdout).toBe("mon\n1\n");
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
    const argv = ["device", "show", "vda"];
    expect((await runCli(argv, { engine, env, terminal: 80 })).stdout).toContain("\u001b[");
    expect((await runCli(argv, { engine, env })).stdout).not.toContain("\u001b[");
    expect((await runCli([...argv, "--no-color"], { engine, env, terminal: 80 })).stdout).not.toContain(
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

  test("results and errors break between words; paths and commands stay whole", async () => {
    const chain = [
      { image: "/srv/my guests/a-after-monday.qcow2", format: "qcow2" as const },
      { image: "/srv/my guests/a.qcow2", format: "qcow2" as const },
    ];
    const note = "by the backing name /srv/my guests/a.qcow2 it is found";
    const [before, after] = [chain[1]?.image ?? "", chain[0]?.image ?? ""];
    const outcome = makeOutcome({
      actions: [makeAction({ before, after, notes: [note] })],
      devices: [makeDevice({ chain })],
    });
    const setting = {
      engine: recordingEngine(outcome).engine,
      terminal: 40,
      env: { ...UTF8, NO_COLOR: "1" },
    };
    const { stdout } = await runCli(["snapshot", "vda"], setting);
    expect(stdout.split("\n").slice(0, 10)).toEqual([
      "vda: snapshot taken:",
      "    /srv/my guests/a-after-monday.qcow2,",
      "    was /srv/my guests/a.qcow2",
      "  note: by the backing name",
      "    /srv/my guests/a.qcow2 it is found",
      "",
      "vda  10 GiB",
      "├─ /srv/my guests/a-after-monday.qcow2",
      "│      qcow2, active layer",
      "└─ /srv/my guests/a.qcow2",
    ]);

    const hint = "look at `imgtx img check '/srv/my guests/a.qcow2'`, which  lists what is wrong";
    const runActions = () => {
      throw new ImgtxError("E_CORRUPT", `broken is now ${before}`, { hint, image: before, offset: 65_536 });
    };
    const { stderr } = await runCli(["snapshot", "vda"], { ...setting, engine: { runActions } });
    expect(stderr.split("\n")).toEqual([
      "error: broken is now",
      "  /srv/my guests/a.qcow2",
      "  at: /srv/my guests/a.qcow2,",
      "    offset 0x10000",
      "  No disk was changed.",
      "  hint: look at",
      "    `imgtx img check '/srv/my guests/a.qcow2'`,",
      "    which  lists what is wrong",
      "",
    ]);
  });

  test("a mirror that only changes with its device is no copy that the result tells of", async () => {
    const files = [{ path: "/srv/mirror.qcow2", change: "change" as const }];
    const action = { before: "/srv/a.qcow2", after: "/srv/a.qcow2", files };
    const told: string[] = [];
    for (const kind of ["resize", "mirror"] as const) {
      const outcome = makeOutcome({ actions: [makeAction({ ...action, kind })], devices: [] });
      const { stdout } = await runCli(["resize", "vda", "8M"], recordingEngine(outcome));
      told.push(stdout.split("\n")[0] ?? "");
    }
    expect(told).toEqual(["vda: resized: /srv/a.qcow2", "vda: mirrored: /srv/a.qcow2 to /srv/mirror.qcow2"]);
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
    const { engine } = recordingEngine(makeOutcome({ devices }));
    const { stdout } = await runCli(["rollback"], { engine, ...setting });
    return stdout.split("\n").slice(1, -3).join("\n").concat("\n");
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
