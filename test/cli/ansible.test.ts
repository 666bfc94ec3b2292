// The module for Ansible, run by Debian's ansible-core on this machine, in one playbook: what it changes, and what it says.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { runCli } from "../helpers/cli/harness.ts";
import { oracle } from "../helpers/oracles.ts";
import { PROGRAM } from "../helpers/program.ts";
import { makeWorkbench } from "../helpers/transaction/workbench.ts";

const MODULES = fileURLToPath(new URL("../../bin/ansible", import.meta.url));
const ansible = oracle("ansible-playbook");

/** Prints each result as it is, a line each: Debian's ansible-core has no callback for JSON. */
const CALLBACK = `
import json
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = "name: lines\\ntype: stdout\\nshort_description: results\\n"

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "lines"

    def v2_runner_on_ok(self, result):
        print(json.dumps(result._result))

    def v2_runner_on_failed(self, result, ignore_errors=False):
        print(json.dumps(dict(result._result, failed=True)))
`;

interface Told {
  readonly changed: boolean;
  readonly failed?: boolean;
  readonly applied?: string | null;
  readonly attempts: number;
  readonly rc: number;
  readonly msg?: string;
  readonly error?: { readonly code: string };
  readonly diff?: { readonly before: string; readonly after: string };
  readonly generation?: number;
}

ansible.test(
  "the module tells what it changes, plans in check mode, tries again while others are busy, and applies once",
  async () => {
    const { root: cwd } = await makeWorkbench();
    // Busy once; then committed, with an answer that was lost.
    const script = (name: string, body: string): string => {
      writeFileSync(`${cwd}/${name}`, `#!/bin/sh\n${body}\n`, { mode: 0o755 });
      return `${cwd}/${name}`;
    };
    const busy = script("busy", `[ -e was-busy ] || { touch was-busy; exit 10; }; exec ${PROGRAM} "$@"`);
    const lost = script(
      "lost",
      `[ -e was-lost ] || { touch was-lost; ${PROGRAM} "$@" >&2; exit 16; }; exec ${PROGRAM} "$@"`,
    );
    const long = `# ${"x".repeat(100_000)}`;
    const task = (executable: string, action: string, more: object = {}, how: object = {}): object => ({
      imgtx: { workspace: cwd, executable, delay: 0, actions: [action], ...more },
      ignore_errors: true,
      ...how,
    });
    const tasks = [
      task(PROGRAM, "snapshot vda a1.qcow2", { txn_id: "one" }, { check_mode: true }),
      // More than a pipe holds, for one that ends without having read a byte of it.
      task(busy, "snapshot vda a1.qcow2", { txn_id: "one", actions: ["snapshot vda a1.qcow2", long] }),
      task(PROGRAM, "snapshot vda a1.qcow2", { txn_id: "one" }),
      task(lost, "snapshot vdb b1.qcow2", { txn_id: "two" }),
      task(PROGRAM, "snapshot vdb b1.qcow2"),
    ];
    const play = [{ hosts: "localhost", connection: "local", gather_facts: false, tasks }];
    mkdirSync(`${cwd}/callbacks`);
    writeFileSync(`${cwd}/callbacks/lines.py`, CALLBACK);
    writeFileSync(`${cwd}/play.yml`, JSON.stringify(play));
    const { stdout, stderr } = spawnSync(
      "ansible-playbook",
      ["--diff", "-i", "localhost,", `${cwd}/play.yml`],
      {
        // What is not absolute is of the workspace nevertheless.
        cwd: `${cwd}/callbacks`,
        env: {
          PATH: process.env["PATH"],
          HOME: cwd,
          LC_ALL: "C.UTF-8",
          ANSIBLE_LIBRARY: MODULES,
          ANSIBLE_STDOUT_CALLBACK: "lines",
          ANSIBLE_CALLBACK_PLUGINS: `${cwd}/callbacks`,
          ANSIBLE_PYTHON_INTERPRETER: "/usr/bin/python3",
        },
        encoding: "utf8",
      },
    );
    const told = stdout
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as Told);
    expect(told, stdout + stderr).toHaveLength(tasks.length);
    const [planned, done, again, afterLoss, refused] = told;
    const diff = {
      before: `vda: ${cwd}/a.qcow2\n`,
      after: expect.stringContaining(`vda: ${cwd}/a1.qcow2\ncreate ${cwd}/a1.qcow2\n`),
    };
    expect(planned).toMatchObject({ changed: true, rc: 0, attempts: 1, applied: null, diff });
    expect(done).toMatchObject({ changed: true, rc: 0, attempts: 2, applied: null, diff });
    expect(again).toMatchObject({ changed: false, rc: 0, attempts: 1, applied: expect.any(String) });
    expect(afterLoss).toMatchObject({ changed: true, rc: 0, attempts: 2, applied: null });
    expect(refused).toMatchObject({ failed: true, rc: 14, attempts: 1, error: { code: "E_EXISTS" } });
    expect(existsSync(`${cwd}/b1.qcow2`)).toBe(true);
    const list = await runCli(["snapshot-list", "--json"], { cwd });
    expect((JSON.parse(list.stdout) as { snapshots: unknown[] }).snapshots).toHaveLength(2);
  },
);
