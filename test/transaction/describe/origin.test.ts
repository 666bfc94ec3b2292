// Which commands come from where a transaction was begun.

import { describe, expect, test } from "vitest";
import { isFromHere } from "../../../src/transaction/describe/origin.ts";
import { makeNodeStorage, type Host, type Origin } from "../../../src/storage/index.ts";
import { TERMINAL } from "../../helpers/origin.ts";

/** Whether a command that comes from there joins what was begun in the terminal. */
function joins(begun: Partial<Origin>, command: Partial<Origin>, boot = "boot-1"): boolean | null {
  const host: Host = {
    ...makeNodeStorage().host,
    bootId: "boot-1",
    origin: { ...TERMINAL, ...command },
  };
  return isFromHere({ origin: { ...TERMINAL, ...begun }, boot }, host);
}

describe("a command is from where the transaction was begun", () => {
  test("in the same session", () => {
    expect(joins({}, { ancestors: [] })).toBe(true);
  });

  test("in the same login, whatever its session", () => {
    expect(joins({ login: "5" }, { login: "5", sessions: [{ id: 77, started: "1" }] })).toBe(true);
  });

  test("where sudo or su was called in that session, for the one or the other or both", () => {
    const behindSudo = (id: number) => ({ sessions: [{ id, started: "9" }, ...TERMINAL.sessions] });
    expect(joins({}, behindSudo(50))).toBe(true);
    expect(joins(behindSudo(50), {})).toBe(true);
    expect(joins(behindSudo(50), behindSudo(60))).toBe(true);
  });

  test("where the first process of the session has gone, and both come from one that has not", () => {
    const sessions = [{ id: 30, started: null }];
    expect(joins({}, { sessions })).toBe(true);
    expect(joins({ sessions }, { sessions, ancestors: [{ pid: 40, started: "400" }] })).toBe(true);
  });

  test("by the session's number alone where neither has a /proc", () => {
    const bare = { processes: "", sessions: [{ id: 30, started: null }], ancestors: [] };
    expect(joins(bare, bare)).toBe(true);
    expect(joins(bare, { ...bare, sessions: [{ id: 31, started: null }] })).toBe(false);
    expect(joins(bare, { ...bare, sessions: [] })).toBe(false);
  });
});

describe("a command is from elsewhere", () => {
  test.each<[string, Partial<Origin>, Partial<Origin>]>([
    ["in another session", {}, { sessions: [{ id: 31, started: "310" }] }],
    ["in another session of that number", {}, { sessions: [{ id: 30, started: "999" }] }],
    ["in another container, whose numbers are its own", {}, { processes: "pid:[2]" }],
    ["in another login", { login: "5" }, { login: "6" }],
    ["in a login, where the other is in none", { login: "5" }, {}],
    [
      "in a service of the same login",
      { login: "5" },
      { login: "5", service: "/user.slice/backup.service", sessions: [{ id: 31, started: "310" }] },
    ],
    [
      "in a session whose first process has gone, and of which it knows nobody",
      {},
      { sessions: [{ id: 30, started: null }], ancestors: [{ pid: 40, started: "401" }] },
    ],
  ])("%s", (_where, begun, command) => {
    expect(joins(begun, command)).toBe(false);
    expect(joins(command, begun)).toBe(false);
  });

  test("after a reboot, with all numbers the same", () => {
    expect(joins({ login: "5" }, { login: "5" }, "boot-0")).toBe(false);
  });

  test("for all that is known, where the journal does not tell", () => {
    const { host } = makeNodeStorage();
    expect(isFromHere({ origin: null, boot: host.bootId }, host)).toBeNull();
  });
});
