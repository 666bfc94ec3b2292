// A scenario laid out in a real folder, and what a user can tell of it: the same facts as on the simulated
// disk (../observation.ts), plus what only a real file system has, such as times.
//
// Invariants
// - A folder is laid out anew for every trial: inodes and birth times are part of what imgtx fingerprints,
//   so that a copied folder would not be the same one.
// - Observations of two folders are equal when their texts are: the folder's own path is taken out of them,
//   of the images' contents too. So the folders of one run must have paths of one length.

import { createHash } from "node:crypto";
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { run } from "../../../src/cli/main.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { openHostImage } from "../../helpers/guest-content.ts";
import {
  describeFiles,
  describeWorkspace,
  type Answers,
  type FolderEntry,
  type FolderView,
} from "../observation.ts";
import { WORKSPACE, type SampleFile } from "../scenarios.ts";
import { BadState, type RunResult, type Step } from "../subject.ts";

const SHOWN_ROOT = "/disks";
const OWN_FOLDER = ".imgtx";

interface CommandAnswer extends RunResult {
  readonly stdout: string;
}

export class RealFolder {
  readonly root: string;
  readonly workspace: string;
  #inodes: ReadonlyMap<string, bigint> = new Map();

  constructor(root: string) {
    this.root = root;
    this.workspace = `${root}/${WORKSPACE}`;
  }

  /** Makes the folder anew, with the scenario's files, and runs steps in this process. */
  async layOut(files: readonly SampleFile[], steps: readonly Step[]): Promise<void> {
    rmSync(this.root, { recursive: true, force: true });
    for (const folder of [this.workspace, `${this.root}/images`]) mkdirSync(folder, { recursive: true });
    const inodes = new Map<string, bigint>();
    for (const { path, bytes, mode } of files) {
      writeFileSync(`${this.root}/${path}`, bytes, { mode: mode ?? 0o644 });
      inodes.set(`${this.root}/${path}`, lstatSync(`${this.root}/${path}`, { bigint: true }).ino);
    }
    this.#inodes = inodes;
    for (const step of steps) await this.runStep(step);
  }

  /** Runs a step in this process, which is quick; it must end as it does without a crash. */
  async runStep(step: Step): Promise<void> {
    const { exit, text } = await this.run(step.argv);
    if (exit === (step.exit ?? 0)) return;
    throw new Error(`\`${step.argv.join(" ")}\` ended with ${exit}, not ${step.exit ?? 0}\n${text}`);
  }

  async run(argv: readonly string[]): Promise<CommandAnswer> {
    let stdout = "";
    let stderr = "";
    const exit = await run(argv, {
      storage: makeNodeStorage(),
      cwd: this.workspace,
      env: {},
      stdout: { write: (text) => void (stdout += text), isTTY: false, columns: undefined },
      stderr: { write: (text) => void (stderr += text), isTTY: false, columns: undefined },
      stdin: () => Promise.resolve(""),
    });
    return { exit, stdout, text: `${stdout}${stderr}` };
  }

  /** All that a user can tell. Recovery must have run: the commands that are asked would do it. */
  async observe(): Promise<string> {
    const answers = await this.#ask();
    if (answers) this.#checkJournals(answers);
    const place = { workspace: this.workspace, original: new Set(this.#inodes.keys()) };
    return this.shown(describeWorkspace(this.#view(), place, answers));
  }

  /** The files outside the workspace's own folder. Runs nothing. */
  describeFiles(): string {
    const place = { workspace: this.workspace, original: new Set(this.#inodes.keys()) };
    return this.shown(describeFiles(this.#view(), place).join("\n"));
  }

  /** Everything, with times, for the claim that nothing at all was written. */
  snapshot(): string {
    return listEntries(this.root, [])
      .map((path) => {
        const { ino, mode, size, mtimeNs, ctimeNs } = lstatSync(path, { bigint: true });
        return `${path} inode ${ino} mode ${mode.toString(8)} ${size} bytes, changed ${mtimeNs} ${ctimeNs}`;
      })
      .join("\n");
  }

  shown(text: string): string {
    return text.replaceAll(this.root, SHOWN_ROOT);
  }

  async #ask(): Promise<Answers | undefined> {
    const devices = await this.run(["device", "list", "--json"]);
    if (isLackingWorkspace(devices)) return undefined;
    const transactions = await this.run(["txn", "status", "--json"]);
    for (const { exit, text } of [devices, transactions]) {
      if (exit !== 0) throw new BadState(`a query ends with ${exit}:\n${text}`);
    }
    return { devices: devices.stdout, transactions: transactions.stdout };
  }

  /** The journals' folder holds the open transactions and nothing else. */
  #checkJournals(answers: Answers): void {
    const { transactions } = JSON.parse(answers.transactions) as { transactions: { id: string }[] };
    const wanted = transactions.map(({ id }) => `${id}.journal`).sort();
    const found = readdirSync(`${this.workspace}/${OWN_FOLDER}/journal`).sort();
    if (found.join() !== wanted.join()) {
      throw new BadState(`journals [${found.join(" ")}] for transactions [${wanted.join(" ")}]`);
    }
  }

  #view(): FolderView {
    return {
      entries: () =>
        listEntries(this.root, [`${this.workspace}/${OWN_FOLDER}`]).map((path) => this.#entry(path)),
      open: (path) => openHostImage(path),
      realPath: (path) => {
        try {
          return realpathSync(path);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
          throw error;
        }
      },
    };
  }

  #entry(path: string): FolderEntry {
    const stat = lstatSync(path, { bigint: true });
    const kind = stat.isSymbolicLink() ? "symlink" : stat.isDirectory() ? "folder" : "file";
    const first = this.#inodes.get(path);
    const inode = first === stat.ino ? "kept" : `${stat.ino}, was ${first}`;
    return { path, kind, inode, mode: Number(stat.mode & 0o7777n), content: this.#content(path, kind) };
  }

  #content(path: string, kind: FolderEntry["kind"]): string {
    if (kind === "symlink") return readlinkSync(path);
    if (kind === "folder") return "";
    const text = readFileSync(path, "latin1").replaceAll(this.root, "/".padEnd(this.root.length, "-"));
    return createHash("sha256").update(text, "latin1").digest("hex");
  }
}

export function isLackingWorkspace({ exit, text }: RunResult): boolean {
  return exit === 14 && /no workspace here|E_NO_WORKSPACE/.test(text);
}

/** Absolute paths of all below a folder, sorted; not of what is in the folders to leave out. */
function listEntries(folder: string, leaveOut: readonly string[]): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => {
      const path = `${folder}/${entry.name}`;
      const goesIn = entry.isDirectory() && !leaveOut.includes(path);
      return goesIn ? [path, ...listEntries(path, leaveOut)] : [path];
    })
    .sort();
}
