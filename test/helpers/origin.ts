// Where a command of the tests comes from: a shell of a terminal.

import type { Origin } from "../../src/storage/index.ts";

/** Of a command in a shell of a terminal: session 30, no login, no service. Processes began at ten times their number. */
export const TERMINAL: Origin = {
  processes: "pid:[7]",
  login: null,
  loginUser: null,
  service: null,
  sessions: [{ id: 30, started: "300" }],
  ancestors: [
    { pid: 40, started: "400" },
    { pid: 30, started: "300" },
  ],
};
