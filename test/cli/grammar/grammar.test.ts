// What the command line accepts, what it makes of it, and what it refuses with exit status 64.

import { describe, expect, test } from "vitest";
import { recordingEngine, runCli, type RunSetting } from "../../helpers/cli/harness.ts";

async function requestOf(argv: readonly string[], setting: RunSetting = {}) {
  const { engine, calls } = recordingEngine();
  const result = await runCli(argv, { ...setting, engine });
  expect(result).toMatchObject({ status: 0, stderr: "" });
  expect(calls).toHaveLength(1);
  const [call] = calls;
  return { request: call!.requests[0]!, options: call!.options };
}

async function usageErrorOf(argv: readonly string[], setting: RunSetting = {}) {
  const result = await runCli(argv, { engine: {}, ...setting });
  expect(result).toMatchObject({ status: 64, stdout: "" });
  return result.stderr;
}

describe("an action becomes a request", () => {
  test("a snapshot's file is taken from the current folder", async () => {
    const { request } = await requestOf(["snapshot", "vda", "a1.qcow2"]);
    expect(request).toEqual({
      kind: "snapshot",
      targets: [{ device: "vda", file: "/srv/guests/a1.qcow2", format: "qcow2" }],
      relative: undefined,
      reuse: false,
      overlay: {},
    });
  });

  test.each([
    ["./x", "/srv/guests/x"],
    ["/a//b/./c", "/a/b/c"],
    ["../x", "/srv/x"],
    ["../../../x", "/x"],
    // `link` may be a symbolic link: what is above it is not ours to say.
    ["link/../x", "/srv/guests/link/../x"],
    ["/link/../x", "/link/../x"],
    ["a:b.qcow2", "/srv/guests/a:b.qcow2"],
  ])("the path %s means %s", async (path, absolute) => {
    const { request } = await requestOf(["reopen", "vda", path]);
    expect(request).toMatchObject({ file: absolute });
  });

  test("a name with a dash in front works after -- and as ./-x", async () => {
    const behind = await requestOf(["snapshot", "--reuse", "vda", "--", "-x"]);
    const dotted = await requestOf(["snapshot", "vda", "./-x", "--reuse"]);
    expect(behind.request).toMatchObject({ targets: [{ file: "/srv/guests/-x" }], reuse: true });
    expect(dotted.request).toEqual(behind.request);
  });

  test("a layout is said in imgtx's words or in qemu-img's", async () => {
    const ours = await requestOf([
      "snapshot",
      "vda",
      "x",
      "--cluster-size=128k",
      "--refcount-bits=32",
      "--extended-l2",
      "--compat=1.1",
    ]);
    const theirs = await requestOf([
      "snapshot",
      "vda",
      "x",
      "-o",
      "cluster_size=0x20000,refcount_bits=32",
      "-oextended_l2=on,compat=v3",
    ]);
    expect(ours.request).toMatchObject({
      overlay: { clusterSizeBytes: 131072, refcountBits: 32, extendedL2: true, compat: "1.1" },
    });
    expect(theirs.request).toEqual(ours.request);
  });

  test("extended_l2=off is not the same as not saying it", async () => {
    const { request } = await requestOf(["snapshot", "vda", "x", "-o", "extended_l2=off"]);
    expect(request).toMatchObject({ overlay: { extendedL2: false } });
  });

  test("a group's files may have commas, written twice, and a format after a single one", async () => {
    const { request } = await requestOf(["snapshot-group", "vda=one,,two", "vdb=/b=c,format=raw"]);
    expect(request).toMatchObject({
      kind: "snapshot-group",
      targets: [
        { device: "vda", file: "/srv/guests/one,two", format: "qcow2" },
        { device: "vdb", file: "/b=c", format: "raw" },
      ],
    });
  });

  test("device add keeps the folders of its own --allow-path, not those of the environment", async () => {
    const env = { IMGTX_ALLOW_PATH: "/e1::/e2" };
    const argv = ["--allow-path", "gold", "device", "add", "vda", "f", "--allow-path=/srv/x"];
    const { request, options } = await requestOf(argv, { env });
    expect(request).toMatchObject({
      kind: "device-add",
      allowPaths: ["/srv/guests/gold", "/srv/x"],
    });
    expect(options).toMatchObject({
      standalone: true,
      allowPaths: ["/srv/guests/gold", "/srv/x", "/e1", "/e2"],
    });
  });

  test.each([
    [["rollback"], { devices: [], to: undefined, isDiscarding: false }],
    [["rollback", "vda", "vdb", "--to", "mon"], { devices: ["vda", "vdb"], to: "mon", isDiscarding: false }],
    [
      ["rollback", "vda=a=b", "vdb", "--overwrite"],
      {
        devices: ["vda", "vdb"],
        to: undefined,
        isDiscarding: false,
        overlays: [{ device: "vda", file: "/srv/guests/a=b" }],
        overwrites: true,
      },
    ],
    [["rollback", "--to=12", "--discard"], { devices: [], to: "12", isDiscarding: true }],
  ])("%j goes back to %j", async (argv, request) => {
    expect((await requestOf(argv)).request).toEqual({ kind: "rollback", ...request });
  });
});

describe("options of every command", () => {
  const globals = ["--dry-run", "--txn", "id1", "--wait=1.5", "--allow-path", "/p"];
  const expected = { dryRun: true, transaction: "id1", waitMs: 1500, allowPaths: ["/p"] };

  test("mean the same before the verb, after it, and on both sides", async () => {
    const verb = ["reopen", "vda", "x"];
    const before = await requestOf([...globals, ...verb]);
    const behind = await requestOf([...verb, ...globals]);
    const around = await requestOf([...globals.slice(0, 3), ...verb, ...globals.slice(3)]);
    for (const { options } of [before, behind, around]) expect(options).toMatchObject(expected);
  });

  test.each([
    [["--wait", "rollback"], Number.POSITIVE_INFINITY],
    [["rollback", "--wait"], Number.POSITIVE_INFINITY],
    [["--wait=10", "rollback"], 10_000],
    [["rollback"], 0],
  ])("%j waits %s ms", async (argv, waitMs) => {
    expect((await requestOf(argv)).options.waitMs).toBe(waitMs);
  });

  test("--wait does not take the word after it", async () => {
    const { request } = await requestOf(["snapshot", "--wait", "vda", "x"]);
    expect(request).toMatchObject({ targets: [{ device: "vda" }] });
  });

  test("the environment is used where there is no option, and an empty value is none", async () => {
    const env = { IMGTX_TXN: "from-env", IMGTX_WORKSPACE: "" };
    expect((await requestOf(["rollback"], { env })).options.transaction).toBe("from-env");
    expect((await requestOf(["rollback", "--txn=x"], { env })).options.transaction).toBe("x");
  });

  test.each([
    [["--workspace", "ws", "rollback"], {}, "/srv/guests/ws"],
    [["rollback"], { IMGTX_WORKSPACE: "../w" }, "/srv/w"],
    [["rollback", "--workspace=/w1"], { IMGTX_WORKSPACE: "/w2" }, "/w1"],
    [["rollback"], {}, undefined],
  ])("%j with %j looks in %s", async (argv, env, workspace) => {
    const seen: unknown[] = [];
    const { engine } = recordingEngine();
    const openSession = async (_storage: unknown, options: object) => {
      seen.push(options);
      return { root: "/w", recovered: [] } as never;
    };
    await runCli(argv, { env, engine: { ...engine, openSession } });
    expect(seen).toEqual([expect.objectContaining({ workspace, startFolder: "/srv/guests" })]);
  });

  test("short ones may be joined", async () => {
    expect((await requestOf(["rollback", "-qn"])).options.dryRun).toBe(true);
    const { request } = await requestOf(["snapshot", "-nocluster_size=64k", "vda", "x"]);
    expect(request).toMatchObject({ overlay: { clusterSizeBytes: 65_536 } });
  });
});

describe("usage errors name what is wrong and what was probably meant", () => {
  test.each([
    [["snapshto", "vda", "x"], "unknown command 'snapshto'", "did you mean snapshot?"],
    [["--json=no", "rollback"], "unknown option '--json=no'", "did you mean --json?"],
    [["snapshot", "vda", "x", "--reus"], "unknown option '--reus'", "did you mean --reuse?"],
    [["snapshot", "vda", "x", "--dryrun"], "unknown option '--dryrun'", "did you mean --dry-run?"],
    [["txn", "comit"], "unknown command 'comit'", "did you mean txn commit?"],
    [["device", "lst"], "unknown command 'lst'", "did you mean device list?"],
    [["do"], "unknown command 'do'", "did you mean one of redo, undo?"],
    [["eplian"], "unknown command 'eplian'", "see `imgtx --help`"],
    [["rollback", "-qz"], "unknown option '-z'", "see `imgtx rollback --help`"],
    [["-n", "snapshot-list"], "unknown option '-n'", "see `imgtx snapshot-list --help`"],
    [["undo", "-5"], "too many arguments for 'undo'. Expected 0 arguments but got 1.", ""],
    [["list"], "unknown command 'list'", "did you mean txn list, or device list, or snapshot-list,"],
    [["restore", "mon"], "unknown command 'restore'", "did you mean rollback?"],
    [["--quiet", "verify"], "unknown command 'verify'", "did you mean status --check, or"],
    [["snapshot"], "missing required argument 'DEV'", "see `imgtx snapshot --help`"],
    [["undo", "3"], "too many arguments", "see `imgtx undo --help`"],
    [["undo", "--wait", "3"], "too many arguments", "say --wait=3"],
    [["--wait", "3", "rollback"], "unknown command '3'", "say --wait=3"],
    [["rollback", "--to"], "argument missing", "see `imgtx rollback --help`"],
    [["rollback", "--output", "xml"], "Allowed choices are human, json", ""],
    [["rollback", "--wait=soon"], "--wait: 'soon' is not a number of seconds", "say --wait=10"],
    [["rollback", "--workspace="], "--workspace: the folder's name is empty", ""],
    [["snapshot", "vda", ""], "a file name is empty", ""],
    [["snapshot", "vda", "f", "-o", ""], "-o: the list of options is empty", ""],
    [["snapshot", "vda", "b\u{FFFD}d.qcow2"], "is not a name in UTF-8", "rename the file"],
    [["rollback", "--workspace", "\u{FFFD}"], "is not a name in UTF-8", "rename the file"],
    [["snapshot", "vda", "x", "--cluster-size", "10GiB"], "'10GiB' is not a size", "64k"],
    [["snapshot", "vda", "x", "--cluster-size", "96k"], "'96k' is not a power of two", ""],
    [["snapshot", "vda", "x", "--refcount-bits", "3"], "Allowed choices are 1, 2, 4", ""],
    [["snapshot", "vda", "x", "-o", "refcount_bits=3"], "'3' is none of 1, 2, 4", ""],
    [["snapshot", "vda", "x", "-o", "cluster_siez=1k"], "-o: unknown key 'cluster_siez'", "imgtx knows"],
    [["snapshot", "vda", "x", "-o", "extended_l2=yes"], "'yes' is neither on nor off", ""],
    [["snapshot", "vda", "x", "-o", "compat=2"], "'2' is neither 0.10 nor 1.1", ""],
    [["snapshot", "vda", "x", "-o", "backing_file=y"], "a snapshot sets it by itself", ""],
    [["snapshot", "vda", "x", "--compat=1.1", "-o", "compat=1.1"], "say the same thing", ""],
    [["snapshot-group"], "no device is named", "--all"],
    [["snapshot-group", "--all", "vda"], "--all is every device", "--all"],
    [["snapshot-group", "=x"], "'=x' is not of the form DEV=FILE", ""],
    [["snapshot-group", "vda=a,b"], "'b' is not format=F", "written twice"],
    [["txn", "begin", "--on-error", "stop"], "Allowed choices are abort, keep", ""],
    [["txn", "begin", "--name="], "--name: the name is empty", ""],
    [["txn", "exec", "ls", "-l"], "unknown option '-l'", ""],
    [["help", "nothing"], "unknown command 'nothing'", ""],
  ])("%j: %s", async (argv, message, hint) => {
    const stderr = await usageErrorOf(argv);
    expect(stderr).toMatch(/^error: /);
    expect(stderr).toContain(message);
    expect(stderr).toContain(hint);
  });

  test("an option of qemu-img that a snapshot does not have is unsupported, by name", async () => {
    const argv = ["snapshot", "vda", "x", "-o", "preallocation=full"];
    const { status, stderr } = await runCli(argv, { engine: {} });
    expect(status).toBe(12);
    expect(stderr).toContain("-o preallocation is not supported");
  });

  test("under --json they are objects, wherever --json stands", async () => {
    for (const [argv, message] of [
      [["--json", "snapshto"], "unknown command 'snapshto'"],
      [["snapshot", "vda", "x", "--reus", "--output", "json"], "unknown option '--reus'"],
      [["--json"], "no command given"],
      [["txn", "--json"], "no command given"],
    ] as const) {
      const { error } = JSON.parse(await usageErrorOf(argv)) as { error: Record<string, unknown> };
      expect(error).toMatchObject({ code: "E_USAGE", message, changed: false });
    }
  });

  test("no command at all prints the commands to stderr: status 0 is for what was done", async () => {
    expect(await usageErrorOf([])).toContain("snapshot-group");
    expect(await usageErrorOf(["txn"])).toContain("txn rollback-to");
    expect(await usageErrorOf(["--workspace", "/x"])).toContain("snapshot-group");
  });

  test("nothing is opened for a usage error", async () => {
    const engine = {
      openSession: () => {
        throw new Error("opened");
      },
    };
    await usageErrorOf(["snapshot", "vda", "x", "--cluster-size", "1"], { engine });
  });
});
