// A scenario's folder on the real disk, for rigs that run real processes in it: laid out, kept, put back
// before each trial, and observed. Queries run in this process, which is faster.

import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { run } from "../../../src/cli/main.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { guestDigest, openGuest, openHostImage } from "../../helpers/guest-content.ts";
import {
  changingImages,
  describeFiles,
  findMissingParent,
  type Answers,
  type FolderView,
  describeWorkspace,
  type WorkspacePlace,
} from "../judges/observation.ts";
import {
  copyFolder,
  isShared,
  keepShared,
  type KeptFile,
  layOutFiles,
  markCopy,
  putBackAlone,
  putBackShared,
  viewFolder,
} from "./real-folder.ts";
import type { Violation } from "../report.ts";
import { type SampleFile, type Scenario, WORKSPACE } from "../scenarios/sample-devices.ts";
import { runTraced, type Injection, type Launch } from "./strace.ts";
import { BadState, type RunResult, type Step } from "../subject.ts";

interface SampleDisks {
  readonly files: readonly SampleFile[];
  readonly changing?: Scenario["changing"];
  readonly copies?: readonly string[];
}

interface BenchOptions {
  /** The launcher, or the single file. */
  readonly program: string;
  readonly asksQemu: boolean;
  /** Where the scenario's folder is made. */
  readonly folder?: string;
  readonly env?: Launch["env"];
}

interface QemuJudged {
  readonly image: string;
  readonly format: string;
  readonly fences: readonly string[];
  readonly mirror: { readonly image: string; readonly format: string } | null;
}

const CHECK_FOUND_LEAKS = 3;

/** QEMU looks for a data file from where it runs; scenarios name theirs from the folder of the image. */
const besideImage = (image: string) => ({ cwd: dirname(image) });

function assertClean(image: string, mayLeak: boolean): void {
  const { status, stderr } = spawnSync("qemu-img", ["check", "-q", "-f", "qcow2", image], {
    ...besideImage(image),
    encoding: "utf8",
  });
  if (status === 0 || (mayLeak && status === CHECK_FOUND_LEAKS)) return;
  throw new BadState(`${image}: qemu-img check ends with ${status}: ${stderr}`);
}

/** A scenario's folder, which is put back before each trial. */
export class RealBench {
  readonly live: string;
  readonly launch: Launch;
  readonly violations: Violation[] = [];
  readonly #name: string;
  readonly #scratch: string;
  readonly #saved: string;
  readonly #place: WorkspacePlace & { readonly copies: ReadonlySet<string> };
  readonly #asksQemu: boolean;
  readonly #judgedByQemu = new Set<string>();
  #kept: readonly KeptFile[] = [];

  constructor(
    name: string,
    { files, changing, copies = [] }: SampleDisks,
    { program, asksQemu, folder = tmpdir(), env = {} }: BenchOptions,
  ) {
    this.#name = name;
    this.#scratch = mkdtempSync(join(folder, "imgtx-crash-"));
    this.live = join(this.#scratch, "live");
    this.#saved = join(this.#scratch, "saved");
    this.#asksQemu = asksQemu;
    const workspace = join(this.live, WORKSPACE);
    this.#place = {
      workspace,
      original: new Set(files.map(({ path }) => join(this.live, path))),
      changing: changingImages(this.live, changing),
      copies: new Set(copies.map((path) => join(this.live, path))),
    };
    this.launch = {
      program,
      env,
      cwd: workspace,
      root: this.live,
      traceFile: join(this.#scratch, "trace"),
    };
    layOutFiles(this.live, files);
  }

  remove(): void {
    rmSync(this.#scratch, { recursive: true, force: true });
  }

  /** Keeps the present state for restore. */
  save(): void {
    // First of all: a file changes with each name that it gets or loses.
    this.#kept = keepShared(this.live);
    rmSync(this.#saved, { recursive: true, force: true });
    if (!isShared(this.live)) return;
    renameSync(this.live, this.#saved);
    copyFolder(this.#saved, this.live);
    markCopy(this.live, this.#kept);
  }

  async restore(): Promise<void> {
    if (!existsSync(this.#saved)) {
      await putBackAlone(this.live, this.#kept);
      return;
    }
    rmSync(this.live, { recursive: true, force: true });
    copyFolder(this.#saved, this.live);
    await putBackShared(this.live, this.#kept);
    markCopy(this.live, this.#kept);
  }

  trace(argv: readonly string[], injection?: Injection): ReturnType<typeof runTraced> {
    return runTraced(this.launch, argv, injection);
  }

  violate(rule: string, trail: readonly string[], detail: string): void {
    this.violations.push({ scenario: this.#name, rule, trail, detail });
  }

  /** Runs a step in this process, which is faster. */
  async do({ argv, exit }: Step): Promise<void> {
    const result = await this.ask(argv);
    if (result.exit !== (exit ?? 0))
      throw new Error(`${argv.join(" ")} ends with ${result.exit}\n${result.text}`);
  }

  async ask(argv: readonly string[]): Promise<RunResult & { readonly out: string }> {
    let out = "";
    let err = "";
    const exit = await run(argv, {
      storage: makeNodeStorage(),
      cwd: this.launch.cwd,
      env: this.launch.env,
      stdout: { write: (text) => void (out += text), isTTY: false, columns: undefined },
      stderr: { write: (text) => void (err += text), isTTY: false, columns: undefined },
      stdin: () => Promise.resolve(""),
    });
    return { exit, text: `${out}${err}`, out };
  }

  hasFilesOf(observed: string): boolean {
    const files = describeFiles(viewFolder(this.live), this.#place);
    return files.join("\n") === observed.split("\n").slice(-files.length).join("\n");
  }

  async observe(): Promise<string> {
    const devices = await this.ask(["device", "list", "--json"]);
    const view = viewFolder(this.live);
    if (devices.exit === 14) return describeWorkspace(view, this.#place, undefined);
    const history = await this.ask(["history", "--json"]);
    const transactions = await this.ask(["txn", "status", "--json"]);
    const snapshots = hasSnapshots(view)
      ? await this.ask(["snapshot-list", "--json"])
      : { exit: 0, out: '{"snapshots":[]}', text: "" };
    const answered = [history, snapshots, transactions, devices];
    for (const { exit, text } of answered) {
      if (exit !== 0) throw new BadState(`a query ends with ${exit}:\n${text}`);
    }
    const answers = Object.assign({}, ...answered.map(({ out }) => JSON.parse(out) as object)) as Answers;
    const observed = describeWorkspace(view, this.#place, answers);
    const bytes = view.entries().filter(({ path }) => this.#place.copies.has(path));
    const judged = [observed, ...bytes.map(({ content }) => content)].join("\n");
    if (this.#asksQemu && !this.#judgedByQemu.has(judged)) this.#askQemu(devices.out);
    this.#judgedByQemu.add(judged);
    return observed;
  }

  /** The journals as they are, a text each. */
  journals(): string[] {
    const folder = join(this.launch.cwd, ".imgtx/journal");
    return readdirSync(folder).map((name) => readFileSync(join(folder, name), "utf8"));
  }

  /**
   * qemu-img must find each image clean, and read from it what the reader of these tests reads; a chain with a
   * fence it must refuse by name.
   */
  #askQemu(answer: string): void {
    const { devices } = JSON.parse(answer) as {
      devices: QemuJudged[];
    };
    const raw = join(this.#scratch, "guest.raw");
    const view = viewFolder(this.live);
    const mirrors = devices
      .flatMap(({ mirror }) => mirror ?? [])
      .filter((mirror) => findMissingParent(view, mirror) === undefined)
      .map((mirror) => ({ ...mirror, fences: [], mayLeak: false }));
    const leaked = ({ image }: QemuJudged) => this.#place.changing.get(image)?.leaked === true;
    const seen = devices.map((device) => ({ ...device, mayLeak: leaked(device) }));
    for (const { image, format, fences, mayLeak } of [...seen, ...mirrors]) {
      if (fences.length > 0) {
        const { status, stderr } = spawnSync("qemu-img", ["map", "-f", format, image], {
          ...besideImage(image),
          encoding: "utf8",
        });
        if (status !== 0 && /feature\(s\): (frozen|merged) by imgtx/.test(stderr)) continue;
        throw new BadState(`${image}: qemu-img does not keep away from its fence: ${stderr}`);
      }
      if (format === "qcow2") assertClean(image, mayLeak);
      execFileSync("qemu-img", ["convert", "-f", format, "-O", "raw", image, raw], besideImage(image));
      const [own, qemus] = [openGuest(openHostImage, image, format), openGuest(openHostImage, raw, "raw")];
      if (guestDigest(own) !== guestDigest(qemus))
        throw new BadState(`${image}: qemu-img reads it differently`);
    }
  }
}

/** Asking costs a process. */
function hasSnapshots(view: FolderView): boolean {
  return view.entries().some(({ path }) => /\/\.imgtx\/snapshots\/[^/]+\.json$/.test(path));
}
