// Where a process comes from, read from a /proc that the test makes up. What the real one says of real sudo, su and
// terminals is in test/cli/origins.test.ts.

import { describe, expect, test } from "vitest";
import { type ProcessFiles, readOrigin } from "../../../src/storage/process/origin.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { TERMINAL } from "../../helpers/origin.ts";

/** A process as the tests write it: number, program, parent, session. It started at its number times ten. */
type Row = readonly [pid: number, program: string, parent: number, session: number];

function statLine([pid, program, parent, session]: Row): string {
  const between = Array.from({ length: 15 }, () => "0").join(" ");
  return `${pid} (${program}) S ${parent} ${pid} ${session} ${between} ${pid * 10} 0 0`;
}

/** The last row is the process itself. */
function makeFiles(rows: readonly Row[], more: Readonly<Record<string, string>> = {}): ProcessFiles {
  const self = rows.at(-1);
  const texts: Record<string, string> = {
    ...Object.fromEntries(rows.map((row) => [`/proc/${row[0]}/stat`, statLine(row)])),
    ...(self && { "/proc/self/stat": statLine(self) }),
    ...more,
  };
  return {
    text: (path) => texts[path],
    link: (path) => (path === "/proc/self/ns/pid" ? "pid:[7]" : undefined),
    sessionId: () => 55,
  };
}

describe("the origin of a process", () => {
  test("is its session, with the start of the first process of that, and the processes above it", () => {
    const origin = readOrigin(
      makeFiles([
        [1, "systemd", 0, 1],
        [20, "sshd", 1, 20],
        [30, "bash", 20, 30],
        [40, "sh", 30, 30],
        [50, "imgtx", 40, 30],
      ]),
    );
    expect(origin).toEqual(TERMINAL);
  });

  test.each(["sudo", "su", "doas", "runuser"])(
    "reaches past %s, which begins a session of its own",
    (program) => {
      const origin = readOrigin(
        makeFiles([
          [30, "bash", 1, 30],
          [40, program, 30, 30],
          [41, program, 40, 41],
          [50, "imgtx", 41, 41],
        ]),
      );
      expect(origin.sessions).toEqual([
        { id: 41, started: "410" },
        { id: 30, started: "300" },
      ]);
      expect(origin.ancestors.map(({ pid }) => pid)).toEqual([41, 40, 30]);
    },
  );

  test("does not reach past what began a session by itself: setsid, a daemon, script", () => {
    const origin = readOrigin(
      makeFiles([
        [30, "bash", 1, 30],
        [40, "cron", 30, 40],
        [41, "sudo", 40, 40],
        [50, "imgtx", 41, 50],
      ]),
    );
    expect(origin.sessions.map(({ id }) => id)).toEqual([50, 40]);
    expect(origin.ancestors.map(({ pid }) => pid)).toEqual([41, 40]);
  });

  test("reads a program's name whatever is in it", () => {
    const origin = readOrigin(
      makeFiles([
        [30, "a) S 9 9 (b\nc", 1, 30],
        [50, "sudo) S 1", 30, 30],
      ]),
    );
    expect(origin.ancestors).toEqual([{ pid: 30, started: "300" }]);
  });

  test("lacks the start of a session whose first process has gone, and of one that began outside of the container", () => {
    const gone = readOrigin(makeFiles([[50, "imgtx", 1, 30]]));
    expect(gone).toMatchObject({ sessions: [{ id: 30, started: null }], ancestors: [] });
    const outside = readOrigin(
      makeFiles([
        [1, "sh", 0, 0],
        [5, "imgtx", 1, 0],
      ]),
    );
    expect(outside).toMatchObject({ sessions: [{ id: 0, started: null }], ancestors: [{ pid: 1 }] });
  });

  test("has the login, and who that was, where the kernel keeps it", () => {
    const rows: readonly Row[] = [[50, "imgtx", 1, 50]];
    const login = { "/proc/self/sessionid": "12\n", "/proc/self/loginuid": "1000" };
    const passwd = { "/etc/passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n" };
    expect(readOrigin(makeFiles(rows, { ...login, ...passwd }))).toMatchObject({
      login: "12",
      loginUser: "alice",
    });
    expect(readOrigin(makeFiles(rows, login))).toMatchObject({ login: "12", loginUser: "uid 1000" });
    const unset = { "/proc/self/sessionid": "4294967295", "/proc/self/loginuid": "4294967295" };
    expect(readOrigin(makeFiles(rows, unset))).toMatchObject({ login: null, loginUser: null });
  });

  test.each([
    ["0::/system.slice/cron.service\n", "/system.slice/cron.service"],
    ["0::/user.slice/user-1000.slice/session-5.scope\n", null],
    ["0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope\n", null],
    [
      "0::/user.slice/user-1000.slice/user@1000.service/app.slice/backup.service\n",
      "/user.slice/user-1000.slice/user@1000.service/app.slice/backup.service",
    ],
    ["9:cpu:/x.service\n1:name=systemd:/system.slice/a.service/sub\n0::/\n", "/system.slice/a.service"],
    ["0::/\n", null],
    ["", null],
  ])("in the cgroups %j is the service %s", (cgroups, service) => {
    const files = makeFiles([[50, "imgtx", 1, 50]], { "/proc/self/cgroup": cgroups });
    expect(readOrigin(files).service).toBe(service);
  });

  test("is the session's number alone where there is no /proc, and nothing where that can't be asked", () => {
    const files = { ...makeFiles([]), link: () => undefined };
    expect(readOrigin(files)).toMatchObject({
      processes: "",
      sessions: [{ id: 55, started: null }],
      ancestors: [],
    });
    expect(readOrigin({ ...files, sessionId: () => undefined }).sessions).toEqual([]);
  });

  test("ends at processes that go round, which a /proc that changes meanwhile may show", () => {
    const origin = readOrigin(
      makeFiles([
        [30, "bash", 40, 30],
        [40, "sh", 30, 30],
        [50, "imgtx", 40, 30],
      ]),
    );
    expect(origin.ancestors.length).toBeLessThanOrEqual(64);
  });

  test("is read of the real /proc: this very process has a session, and processes above it", () => {
    const { origin } = makeNodeStorage().host;
    expect(origin.sessions[0]?.id).toBeGreaterThanOrEqual(0);
    expect(readOrigin()).toEqual(origin);
  });
});
