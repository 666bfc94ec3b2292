// The transaction layer as the command line sees it: its face, by type alone. It is loaded only by commands
// that get as far as needing it (`--help` and usage errors do not), and tests can stand in for it.

import type * as transaction from "../transaction/index.ts";

export type Engine = typeof transaction;
export type { Session } from "../transaction/index.ts";
