// imgtx status

import type { StatusDescription } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import { deviceJson, transactionJson, withSchema } from "../render/json.ts";
import { drawPrometheus } from "../render/prometheus.ts";
import { drawStatus, listFacts } from "../render/status.ts";
import type { Drawing } from "../running/report.ts";

const FORMATS = ["text", "prometheus"] as const;

const STATUS: Drawing<StatusDescription> = {
  text: drawStatus,
  json: (status) => {
    const facts = listFacts(status);
    const { root, generation, now, devices, transactions, spaces, snapshots } = status;
    return withSchema({
      ok: isOk(status),
      workspace: root,
      generation,
      now,
      devices: devices.map(deviceJson),
      transactions: transactions.map(transactionJson),
      snapshots: {
        count: snapshots.count,
        newest: snapshots.newest,
        problems: snapshots.problems,
        "bytes-per-day": snapshots.bytesPerDay,
      },
      space: spaces.map(({ folder, freeBytes, totalBytes, allocatedBytes }) => ({
        folder,
        free: freeBytes,
        total: totalBytes,
        allocated: allocatedBytes,
      })),
      facts,
    });
  },
};

const PROMETHEUS: Drawing<StatusDescription> = { text: drawPrometheus, json: STATUS.json };

export const status: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [],
    options: [
      { long: "check", about: "end with 1 where anything is not as it should be" },
      {
        long: "format",
        value: { name: "FORMAT", completes: FORMATS, choices: FORMATS },
        about: "text, or prometheus: metrics for the textfile collector of node_exporter",
      },
    ],
    about:
      "How the workspace stands, a line a fact: its devices, snapshots and space, and what is open, frozen, behind, " +
      "unfinished or stale, and who holds it. What is wrong says so, with the command that ends it. Takes no lock, and " +
      "changes nothing beyond what each command recovers.",
    examples: [
      { command: "imgtx status", about: "one screen" },
      {
        command: "imgtx status --check -q",
        about: "for monitoring: the problems alone, and status 1 for them",
      },
      {
        command: "imgtx status --format prometheus > /var/lib/node_exporter/imgtx.prom",
        about: "metrics; write beside it and rename, so that none is read by halves",
      },
    ],
    exits: READING_EXITS,
    exitNote: "With --check, 1 also says that something is not as it should be.",
  },
  async execute(invocation) {
    const { input, report } = invocation;
    const { engine, session } = await openToRead(invocation);
    const found = await engine.describeStatus(session, await engine.listTransactions(session));
    if (input.text("--format") === "prometheus") report.answer(found, PROMETHEUS);
    else report.answer(found, report.quiet ? PROBLEMS : STATUS);
    return input.flag("--check") && !isOk(found) ? 1 : 0;
  },
};

const PROBLEMS: Drawing<StatusDescription> = {
  text: (found) =>
    listFacts(found).flatMap(({ subject, level, text }) =>
      level === "problem" ? `${subject}: ${text}` : [],
    ),
  json: STATUS.json,
};

function isOk(found: StatusDescription): boolean {
  return listFacts(found).every(({ level }) => level !== "problem");
}
