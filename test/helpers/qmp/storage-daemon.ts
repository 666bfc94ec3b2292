// A qemu-storage-daemon that is spoken to in QMP, over a socket that it inherits: it prints to its stdout.
//
// It never outlives its test: `timeout` ends it should this process be killed, every answer is waited for
// with a limit, and what does not quit is killed.

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

export interface QmpAnswer {
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

const LIFE_SECONDS = 900;
const ANSWER_MS = 600_000;
const QUIT_MS = 5000;
const PROGRAM = "qemu-storage-daemon";

export class StorageDaemon {
  readonly #process: ChildProcess;
  readonly #monitor: Duplex;
  readonly #ended: Promise<void>;
  readonly #answers: QmpAnswer[] = [];
  #errors = "";

  private constructor(folder: string) {
    this.#process = spawn(
      "timeout",
      [
        `--kill-after=${QUIT_MS / 1000}`,
        String(LIFE_SECONDS),
        PROGRAM,
        "--chardev",
        "socket,id=monitor,fd=3",
        "--monitor",
        "chardev=monitor,mode=control",
      ],
      { cwd: folder, stdio: ["ignore", "ignore", "pipe", "pipe"] },
    );
    // Node makes such a pipe as a pair of sockets.
    this.#monitor = this.#process.stdio[3] as Duplex;
    this.#ended = new Promise((resolve) => {
      this.#process.once("close", () => {
        resolve();
      });
    });
    this.#process.stderr?.on("data", (chunk: Buffer) => {
      this.#errors += chunk.toString();
    });
    // Written to after its end: the missing answer is what is reported.
    this.#monitor.on("error", () => undefined);
    const lines = createInterface(this.#monitor);
    lines.on("error", () => undefined);
    lines.on("line", (line) => {
      const message = JSON.parse(line) as QmpAnswer;
      // The greeting and events are neither.
      if (message.return === undefined && message.error === undefined) return;
      this.#answers.push(message);
    });
  }

  static async start(folder: string): Promise<StorageDaemon> {
    const daemon = new StorageDaemon(folder);
    try {
      await daemon.do("qmp_capabilities");
      return daemon;
    } catch (error) {
      await daemon.stop();
      throw error;
    }
  }

  /** Sends one command and returns its answer, an error too. */
  async ask(command: object): Promise<QmpAnswer> {
    const awaited = this.#answers.length + 1;
    const deadline = Date.now() + ANSWER_MS;
    this.#monitor.write(`${JSON.stringify(command)}\n`);
    while (this.#answers.length < awaited) {
      if (Date.now() > deadline || this.#process.exitCode !== null) {
        throw new Error(`${PROGRAM} gave no answer to ${JSON.stringify(command)}: ${this.#errors}`);
      }
      await sleep(2);
    }
    const answer = this.#answers.at(-1);
    if (!answer) throw new Error("an answer that came has gone");
    return answer;
  }

  /** Sends a command that the test relies on. */
  async do(execute: string, parameters: object = {}): Promise<unknown> {
    const answer = await this.ask({ execute, arguments: parameters });
    if (answer.error) throw new Error(`${execute}: ${answer.error.desc}`);
    return answer.return;
  }

  /** Opens an image as the node `name`, as a guest's disk is opened. */
  async open(name: string, file: string, driver: string, options: object = {}): Promise<void> {
    await this.do("blockdev-add", { "node-name": `${name}-file`, driver: "file", filename: file });
    await this.do("blockdev-add", { "node-name": name, driver, file: `${name}-file`, ...options });
  }

  /** Until no job is left; those that wait for a word to end are given it. */
  async settleJobs(): Promise<void> {
    for (let deadline = Date.now() + ANSWER_MS; Date.now() < deadline; await sleep(20)) {
      const jobs = (await this.do("query-jobs")) as { id: string; status: string }[];
      if (jobs.length === 0) return;
      for (const { id } of jobs.filter(({ status }) => status === "ready")) {
        await this.ask({ execute: "job-complete", arguments: { id } });
      }
    }
    throw new Error("a job does not end");
  }

  async stop(): Promise<void> {
    this.#monitor.write('{"execute": "quit"}\n');
    const stopped = await Promise.race([this.#ended.then(() => true), sleep(QUIT_MS).then(() => false)]);
    // `timeout` hands SIGTERM on, and kills what does not end by it.
    if (!stopped) this.#process.kill("SIGTERM");
    await this.#ended;
  }
}
