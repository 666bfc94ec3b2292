// Has `spawnSync` and its kin start programs without a copy of this process. Node forks, and the kernel copies the
// tables of all its memory for a child that is another program a moment later: at 600 MiB, what a worker has after the
// rigs, each of thousands of starts took 30 ms of the processor. posix_spawn copies nothing.
//
// Invariant: a program meets what it meets from Node: words, environment, folder, signals, and sockets for its outputs.
// What is not known here (limits of time, input, other users), or fails, is left to Node.

import { accessSync, closeSync, constants, readSync, statSync } from "node:fs";
import { constants as systemConstants } from "node:os";
import { resolve } from "node:path";
import { loadForeign } from "../../src/storage/native/foreign.ts";
import type { Foreign } from "../../src/storage/native/foreign-library.ts";

interface Place {
  readonly type: string;
  readonly fd?: number;
  readonly input?: unknown;
}

/** What Node's spawnSync makes of its parameters. */
interface Order {
  readonly file: string;
  readonly args: readonly string[];
  readonly envPairs: readonly string[];
  readonly stdio: readonly Place[];
  readonly cwd?: string | null;
  readonly maxBuffer?: number;
  readonly [other: string]: unknown;
}

interface Ended {
  readonly pid: number;
  readonly status: number | null;
  readonly signal: string | null;
  readonly output: readonly (Buffer | null)[];
  readonly error?: number;
}

interface Binding {
  spawn(order: Order): Ended;
}

/** Options that are Node's to meet, where they are set. */
const NODES_OWN = ["timeout", "uid", "gid", "detached"];

/** No struct of the C library that is used here is larger. */
const STRUCT_BYTES = 512;
const POLLFD_BYTES = 8;
const POLLIN = 1;
const [AF_UNIX, SOCK_STREAM_CLOEXEC] = [1, 0x8_0001];
const [SET_SIGNALS, SET_MASK] = [0x04, 0x08];
const PIECE = Buffer.alloc(64 * 1024);
const NAMES_OF_SIGNALS = new Map(Object.entries(systemConstants.signals).map(([name, at]) => [at, name]));

let isLight = false;

/** Where the C library can't be called, Node goes on to start all itself. */
export function startLightly(): void {
  if (isLight) return;
  isLight = true;
  const starter = Starter.find();
  if (starter === undefined) return;
  const binding = (process as unknown as { binding(name: string): Binding }).binding("spawn_sync");
  const byNode = binding.spawn.bind(binding);
  binding.spawn = (order) => starter.run(order) ?? byNode(order);
}

class Starter {
  readonly #foreign: Foreign;
  readonly #calls: ReturnType<typeof bindCalls>;

  private constructor(foreign: Foreign) {
    this.#foreign = foreign;
    this.#calls = bindCalls(foreign);
  }

  static find(): Starter | undefined {
    try {
      return new Starter(loadForeign());
    } catch {
      return undefined;
    }
  }

  /** Nothing where Node has to. */
  run(order: Order): Ended | undefined {
    const program = findProgram(order);
    if (program === undefined) return undefined;
    const pipes = order.stdio.map(({ type }) => (type === "pipe" ? this.#makePipe() : undefined));
    const pid = this.#start(
      program,
      order,
      pipes.map((pipe, at) => pipe?.theirs ?? order.stdio[at]?.fd),
    );
    for (const pipe of pipes) if (pipe) closeSync(pipe.theirs);
    const input = pipes[0];
    if (input) closeSync(input.ours);
    const outputs = pipes.map((pipe, at) => (at === 0 ? undefined : pipe?.ours));
    if (pid === undefined) {
      for (const output of outputs) if (output !== undefined) closeSync(output);
      return undefined;
    }
    const { output, isTooMuch } = this.#readAll(outputs, order, pid);
    // What goes in has an output of nothing, as Node has it.
    return {
      pid,
      ...this.#waitFor(pid),
      output: output.map((bytes, at) => (at === 0 || outputs[at] === undefined ? null : bytes)),
      ...(isTooMuch && { error: -systemConstants.errno.ENOBUFS }),
    };
  }

  #makePipe(): { ours: number; theirs: number } {
    const pair = new Int32Array(2);
    const result = this.#calls.socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, bytesOf(pair));
    if (result !== 0) throw new Error(`socketpair: ${this.#foreign.errno()}`);
    const [ours = -1, theirs = -1] = pair;
    return { ours, theirs };
  }

  #start(program: string, order: Order, places: readonly (number | undefined)[]): number | undefined {
    const calls = this.#calls;
    const [pid, actions, attributes] = [
      new Int32Array(1),
      Buffer.alloc(STRUCT_BYTES),
      Buffer.alloc(STRUCT_BYTES),
    ];
    // Each signal does what it does by itself, and none is held back.
    const [all, none] = [Buffer.alloc(128, 0xff), Buffer.alloc(128)];
    calls.initActions(actions);
    calls.initAttributes(attributes);
    calls.setFlags(attributes, SET_SIGNALS | SET_MASK);
    calls.setSignals(attributes, all);
    calls.setMask(attributes, none);
    places.forEach((fd, at) => {
      if (fd !== undefined) calls.addDuplicate(actions, fd, at);
      else calls.addOpen(actions, at, "/dev/null", at === 0 ? constants.O_RDONLY : constants.O_RDWR, 0);
    });
    if (order.cwd) calls.addFolder(actions, order.cwd);
    const [words, environment] = [this.#listTexts(order.args), this.#listTexts(order.envPairs)];
    const failed = calls.spawn(bytesOf(pid), program, actions, attributes, words.list, environment.list);
    calls.endActions(actions);
    return failed === 0 ? pid[0] : undefined;
  }

  /** As execve() takes them: the addresses of the texts, and 0. The texts have to be kept for as long. */
  #listTexts(texts: readonly string[]): { list: Buffer; texts: Buffer } {
    const kept = Buffer.from(texts.map((text) => `${text}\0`).join(""));
    const list = Buffer.alloc((texts.length + 1) * 8);
    let address = this.#foreign.address(kept);
    texts.forEach((text, at) => {
      list.writeBigUInt64LE(address, at * 8);
      address += BigInt(Buffer.byteLength(text) + 1);
    });
    return { list, texts: kept };
  }

  /** Until nobody holds the other ends any more. */
  #readAll(fds: readonly (number | undefined)[], { maxBuffer, killSignal }: Order, pid: number) {
    const pieces: Buffer[][] = fds.map(() => []);
    const read = fds.map(() => 0);
    const open = new Set(fds.flatMap((fd, at) => (fd === undefined ? [] : [at])));
    let isTooMuch = false;
    while (open.size > 0 && !isTooMuch) {
      for (const at of this.#whichAreReady(fds, [...open])) {
        const fd = fds[at] ?? -1;
        const length = readPiece(fd);
        if (length === 0) {
          closeSync(fd);
          open.delete(at);
          continue;
        }
        pieces[at]?.push(Buffer.from(PIECE.subarray(0, length)));
        read[at] = (read[at] ?? 0) + length;
        if ((read[at] ?? 0) <= (maxBuffer ?? Number.POSITIVE_INFINITY)) continue;
        isTooMuch = true;
        process.kill(pid, typeof killSignal === "number" && killSignal > 0 ? killSignal : "SIGTERM");
      }
    }
    for (const at of open) closeSync(fds[at] ?? -1);
    return { output: pieces.map((list) => Buffer.concat(list)), isTooMuch };
  }

  #whichAreReady(fds: readonly (number | undefined)[], places: readonly number[]): number[] {
    const [only] = places;
    if (places.length === 1 && only !== undefined) return [only];
    const asked = Buffer.alloc(places.length * POLLFD_BYTES);
    places.forEach((at, index) => {
      asked.writeInt32LE(fds[at] ?? -1, index * POLLFD_BYTES);
      asked.writeInt16LE(POLLIN, index * POLLFD_BYTES + 4);
    });
    this.#calls.poll(asked, places.length, -1);
    return places.filter((_, index) => asked.readInt16LE(index * POLLFD_BYTES + 6) !== 0);
  }

  #waitFor(pid: number): { status: number | null; signal: string | null } {
    const word = new Int32Array(1);
    while (this.#calls.waitpid(pid, bytesOf(word), 0) !== pid) {
      const number = this.#foreign.errno();
      if (number !== systemConstants.errno.EINTR) throw new Error(`waitpid: ${number}`);
    }
    const [status = 0] = word;
    const signal = status & 0x7f;
    return signal === 0
      ? { status: (status >> 8) & 0xff, signal: null }
      : { status: null, signal: NAMES_OF_SIGNALS.get(signal) ?? null };
  }
}

function bindCalls(foreign: Foreign) {
  const library = foreign.load(null);
  const [actions, attributes] = ["int posix_spawn_file_actions_", "int posix_spawnattr_"];
  return {
    socketpair: library.func("int socketpair(int family, int type, int protocol, void *fds)"),
    poll: library.func("int poll(void *fds, unsigned long count, int timeout)"),
    waitpid: library.func("int waitpid(int pid, void *status, int options)"),
    spawn: library.func(
      "int posix_spawn(void *pid, str path, void *actions, void *attributes, void *words, void *environment)",
    ),
    initActions: library.func(`${actions}init(void *actions)`),
    endActions: library.func(`${actions}destroy(void *actions)`),
    addDuplicate: library.func(`${actions}adddup2(void *actions, int fd, int as)`),
    addOpen: library.func(`${actions}addopen(void *actions, int as, str path, int flags, unsigned int mode)`),
    addFolder: library.func(`${actions}addchdir_np(void *actions, str path)`),
    initAttributes: library.func(`${attributes}init(void *attributes)`),
    setFlags: library.func(`${attributes}setflags(void *attributes, short flags)`),
    setSignals: library.func(`${attributes}setsigdefault(void *attributes, void *signals)`),
    setMask: library.func(`${attributes}setsigmask(void *attributes, void *signals)`),
  };
}

/** Where it lies, as Node looks for it: by the PATH that it gets. Nothing where Node has to start it. */
function findProgram(order: Order): string | undefined {
  if (NODES_OWN.some((name) => Boolean(order[name]))) return undefined;
  const areKnown = order.stdio.every(
    ({ type, fd, input }, at) =>
      input === undefined &&
      // A number below those that it gets might be written over before its turn.
      (type === "pipe" ||
        type === "ignore" ||
        (type === "fd" && (fd === at || (fd ?? 0) >= order.stdio.length))),
  );
  if (!areKnown) return undefined;
  const from = order.cwd ?? process.cwd();
  if (order.file.includes("/")) return order.file;
  const path = order.envPairs.find((pair) => pair.startsWith("PATH="))?.slice("PATH=".length);
  return path
    ?.split(":")
    .map((folder) => resolve(from, folder, order.file))
    .find(isProgram);
}

export function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** A program that ended without having read all that it was sent leaves a socket that was reset: no more comes. */
function readPiece(fd: number): number {
  try {
    return readSync(fd, PIECE);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ECONNRESET") return 0;
    throw error;
  }
}

function bytesOf(numbers: Int32Array): Uint8Array {
  return new Uint8Array(numbers.buffer);
}
