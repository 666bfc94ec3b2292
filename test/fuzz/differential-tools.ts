// The two tools of the differential fuzzer: QEMU's programs, each a process, and imgtx in this one, or the single file. Both work in
// the same folder, on names relative to it, so that what they print can be compared as it is.

import { guestOffset, guestRange } from "../../src/units/index.ts";
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { CliContext } from "../../src/cli/context.ts";
import { run } from "../../src/cli/main.ts";
import { type GateOptions, type ImageFormat, openImage } from "../../src/format/index.ts";
import { openForWriting } from "../../src/format/open/open-for-writing.ts";
import { makeNodeStorage, type Storage } from "../../src/storage/index.ts";
import { newerQemu } from "../helpers/oracles.ts";
import { runProgram, SINGLE_FILE } from "../helpers/program.ts";

export interface Printed {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Whoever takes longer hangs, and `timeout` gives a status of its own: a limit of Node's would have it copy this process. */
const HANGS_S = "600";
const HANGS_STATUS = 124;

/** The version of qemu-img that imgtx is held against: the system's, or a newer one. */
const FORM = process.env["IMGTX_QEMU_IMG"] ?? "7.2";
const QEMU_IMG = FORM === "7.2" ? "qemu-img" : newerQemu(Number(FORM));

export class Tools {
  readonly folder: string;
  /** Every command, as it could be given to a shell. */
  readonly log: string[] = [];
  /** What came of changes in place, by their verbs. */
  readonly changes: string[] = [];
  readonly #storage: Storage;
  readonly #gate: GateOptions;

  constructor(folder: string) {
    this.folder = folder;
    // Names of data files are relative to the current folder, as QEMU takes them.
    const storage = makeNodeStorage();
    const host = Object.create(storage.host, { currentFolder: { value: folder } }) as Storage["host"];
    this.#storage = Object.create(storage, { host: { value: host } }) as Storage;
    this.#gate = { allowPaths: [], currentFolder: folder };
  }

  /** folder: where it runs, if not where all is. */
  qemu(program: "qemu-img" | "qemu-io", words: readonly string[], folder = this.folder): Printed {
    const where = folder === this.folder ? "" : " # on copies";
    this.log.push(`${[program, ...words].map(quote).join(" ")}${where}`);
    const options = { cwd: folder, encoding: "utf8", maxBuffer: 64 * 1024 * 1024 } as const;
    const file = program === "qemu-img" ? QEMU_IMG : program;
    const { status, stdout, stderr, error: cause } = spawnSync("timeout", [HANGS_S, file, ...words], options);
    if (status !== null && status !== HANGS_STATUS && cause === undefined) return { status, stdout, stderr };
    throw new Error(`${program} ${words.join(" ")} could not be run to its end`, { cause });
  }

  async imgtx(words: readonly string[]): Promise<Printed> {
    this.log.push(["imgtx", "img", ...words].map(quote).join(" "));
    return await this.#run(words, "qemu-img");
  }

  /** The words of a command on the image as a device, in a workspace of its own that is gone afterwards. */
  async device(image: string, words: readonly string[]): Promise<Printed> {
    const lines = [["device", "add", "vd", image, "--format", "qcow2"], words];
    try {
      for (const line of lines) {
        this.log.push(["imgtx", ...line].map(quote).join(" "));
        const printed = await this.#run(line, "imgtx");
        if (printed.status !== 0 || line === words) return printed;
      }
      throw new Error("the last line ends it");
    } finally {
      this.log.push("rm -r .imgtx devices");
      for (const name of [".imgtx", "devices"])
        rmSync(`${this.folder}/${name}`, { recursive: true, force: true });
    }
  }

  async #run(words: readonly string[], program: "imgtx" | "qemu-img"): Promise<Printed> {
    const env = { IMGTX_QEMU_IMG: FORM };
    if (SINGLE_FILE !== undefined) {
      return await runProgram(SINGLE_FILE, words, { cwd: this.folder, env, program });
    }
    const printed = { stdout: "", stderr: "" };
    const outputTo = (name: "stdout" | "stderr"): CliContext["stdout"] => ({
      write: (text) => {
        printed[name] += text;
      },
      isTTY: false,
      columns: undefined,
    });
    const status = await run(words, {
      storage: this.#storage,
      cwd: this.folder,
      env,
      stdout: outputTo("stdout"),
      stderr: outputTo("stderr"),
      stdin: async () => "",
      ...(program === "qemu-img" && { program }),
    });
    return { status, ...printed };
  }

  /** The same by either, which must succeed. */
  async img(by: Tool, words: readonly string[]): Promise<string> {
    const printed = by === "qemu" ? this.qemu("qemu-img", words) : await this.imgtx(words);
    if (printed.status !== 0) {
      throw new Error(`${by}: ${words.join(" ")}: exit status ${printed.status}: ${printed.stderr.trim()}`);
    }
    return printed.stdout;
  }

  /** The whole disk, as qemu-img convert reads it. */
  async readByQemu(
    name: string,
    format: string,
    { folder = this.folder, snapshot }: { readonly folder?: string; readonly snapshot?: string } = {},
  ): Promise<Buffer> {
    const which = snapshot === undefined ? [] : ["-l", `snapshot.name=${snapshot}`];
    const words = ["convert", "-f", format, "-O", "raw", ...which, name, "out.raw"];
    const { status, stderr } = this.qemu("qemu-img", words, folder);
    if (status !== 0) throw new Error(`qemu-img ${words.join(" ")}: exit status ${status}: ${stderr.trim()}`);
    const content = await readFile(`${folder}/out.raw`);
    rmSync(`${folder}/out.raw`);
    return content;
  }

  /** The whole disk, as imgtx reads it, in pieces that are no multiple of anything. */
  async readByImgtx(name: string, format: ImageFormat, pieceBytes: number): Promise<Buffer> {
    const path = `${this.folder}/${name}`;
    const image = await openImage(this.#storage, path, { format, gate: this.#gate });
    try {
      const content = Buffer.alloc(image.virtualSizeBytes);
      for (let at = 0; at < content.length; at += pieceBytes) {
        await image.read(content.subarray(at, Math.min(content.length, at + pieceBytes)), guestOffset(at));
      }
      return content;
    } finally {
      await image.close();
    }
  }

  /** Guest requests by qemu-io, all in one process. */
  async requestByQemu(name: string, format: ImageFormat, requests: readonly GuestRequest[]): Promise<void> {
    const words = requests.flatMap((request) => ["-c", wordsOf(request)]);
    const { status, stdout, stderr } = this.qemu("qemu-io", ["-f", format, ...words, name]);
    // It says so on stdout where a request failed. A warning of lost bitmaps is none.
    if (status !== 0 || /failed|error/i.test(stdout)) {
      throw new Error(`qemu-io: exit status ${status}: ${stdout.trim()} ${stderr.trim()}`);
    }
  }

  /** The same requests by imgtx. */
  async requestByImgtx(name: string, format: ImageFormat, requests: readonly GuestRequest[]): Promise<void> {
    this.log.push(`imgtx: ${requests.map(wordsOf).join("; ")} on ${name}`);
    const path = `${this.folder}/${name}`;
    const image = await openForWriting(this.#storage, path, { format, gate: this.#gate });
    try {
      for (const { kind, start, lengthBytes, byte } of requests) {
        const range = guestRange(start, lengthBytes);
        if (kind === "write") await image.write(Buffer.alloc(lengthBytes, byte), guestOffset(start));
        else if (kind === "compressed")
          await image.writeCompressed(Buffer.alloc(lengthBytes, byte), guestOffset(start));
        else if (kind === "discard") await image.discard(range);
        else await image.writeZeroes(range, kind === "unmap");
      }
      await image.flush("fuzz");
    } finally {
      await image.close();
    }
  }
}

export type Tool = "qemu" | "imgtx";

/** `zero` keeps the clusters' place, `unmap` may give them back; `discard` promises nothing about the bytes. */
export interface GuestRequest {
  readonly kind: "write" | "compressed" | "zero" | "unmap" | "discard";
  readonly start: number;
  readonly lengthBytes: number;
  /** What is written. */
  readonly byte: number;
}

function wordsOf({ kind, start, lengthBytes, byte }: GuestRequest): string {
  switch (kind) {
    case "write":
      return `write -P ${byte} ${start} ${lengthBytes}`;
    case "compressed":
      return `write -c -P ${byte} ${start} ${lengthBytes}`;
    case "zero":
      return `write -z ${start} ${lengthBytes}`;
    case "unmap":
      return `write -z -u ${start} ${lengthBytes}`;
    case "discard":
      return `discard ${start} ${lengthBytes}`;
  }
}

function quote(word: string): string {
  return /^[\w./=,:-]+$/.test(word) ? word : `'${word}'`;
}
