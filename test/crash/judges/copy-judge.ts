// What a crash may leave of a copy that keeps marks, on a real disk: the state before, the state after, or the
// state before with the unfinished copy kept, its journal parked and its files there.
//
// A copy that is kept is worth what can be done with it. So one of several endings follows, which goes on with it
// or takes it away, and leads to what it leads to from before, or from after; nothing of the copy is left then.

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { openGuest, openHostImage, type OpenImage } from "../../helpers/guest-content.ts";
import type { RealBench } from "../real/real-bench.ts";
import { fingerprintFolder } from "../real/real-folder.ts";
import { isAlikeButForMirror } from "./generations.ts";
import { differences } from "../report.ts";
import type { CopyScenario } from "../scenarios/copy-scenarios.ts";
import { BadState } from "../subject.ts";

export type CopyState = "before" | "kept" | "after";

interface Ending {
  /** A command that changes nothing, but recovers; undefined where the rest meets the crash itself. */
  readonly look: string | undefined;
  readonly end: "copy" | "write copy" | "snapshot copy" | "cancel" | "remove";
}

const ENDINGS: readonly Ending[] = [
  { look: "recover", end: "copy" },
  { look: undefined, end: "copy" },
  { look: "txn status", end: "cancel" },
  { look: "device list", end: "snapshot copy" },
  { look: "recover", end: "write copy" },
  { look: undefined, end: "write copy" },
  { look: undefined, end: "cancel" },
  { look: "txn status", end: "remove" },
];

/** Those of its fields that tell how far a copy has come. */
interface JournalRecord {
  /** Of a `copied`. */
  readonly path?: string;
  readonly offset?: number;
  /** Of a `plan`. */
  readonly newFiles?: readonly { readonly path: string; readonly staging: string }[];
}

interface Ended {
  readonly exits: readonly number[];
  readonly observed: string;
}

/** The mark at which the copy of a scenario that begins with a kept one was cut off. */
const CUT_AT = "pwrite64 /ws/.imgtx/journal/ID.journal (3)";
const STAGING = /^file \S*\/\.imgtx-ID-\d+ .*\n/gm;
const PARKED = /"type":"copied".*\n.*"type":"parked",[^\n]*\n$/s;

/** Judges the crashes of one scenario. Leaves the bench saved as the step under trial finds it. */
export class CopyJudge {
  /** How often the unfinished copy was seen to be kept. */
  kept = 0;
  #tried = 0;
  readonly #bench: RealBench;
  readonly #scenario: CopyScenario;
  /** The guests' content of the copies, by their paths. */
  #copied: ReadonlyMap<string, Uint8Array> = new Map();
  readonly #outcomes = new Map<"before" | "after", string>();
  /** Where each ending leads without a crash. */
  readonly #endings = new Map<string, Ended>();

  private constructor(bench: RealBench, scenario: CopyScenario) {
    this.#bench = bench;
    this.#scenario = scenario;
  }

  static async make(bench: RealBench, scenario: CopyScenario): Promise<CopyJudge> {
    const judge = new CopyJudge(bench, scenario);
    for (const step of scenario.prepare) await bench.do(step);
    bench.save();
    await judge.#learn("before");
    if (scenario.beginsKept === true) await judge.#cutOff();
    await judge.#learn("after");
    await bench.restore();
    return judge;
  }

  async #learn(state: "before" | "after"): Promise<void> {
    const [step] = this.#scenario.steps;
    for (const end of new Set(ENDINGS.map((ending) => ending.end))) {
      await this.#bench.restore();
      if (state === "after") await this.#bench.do(step);
      this.#outcomes.set(state, await this.#bench.observe());
      this.#endings.set(`${state} ${end}`, await this.#end(end));
      if (state === "before" && end === "copy") this.#copied = this.#readCopies();
    }
  }

  async #cutOff(): Promise<void> {
    const bench = this.#bench;
    const { argv } = this.#scenario.copy;
    await bench.restore();
    const call = bench.trace(argv).calls.find(({ label }) => label === CUT_AT);
    if (!call) throw new Error(`${argv.join(" ")} keeps too few marks`);
    await bench.restore();
    bench.trace(argv, { call, kind: "KILL" });
    const state = this.#tell(await bench.observe());
    if (state !== "kept") throw new Error(`${argv.join(" ")} was cut off, and is not kept`);
    bench.save();
  }

  /** Looks and goes on, each time in another way. Returns what the crash left, as far as the ending tells. */
  async judge(allowed: readonly CopyState[], trail: readonly string[]): Promise<CopyState | undefined> {
    const ending = ENDINGS[this.#tried % ENDINGS.length];
    this.#tried += 1;
    if (!ending) throw new Error("there are endings");
    const ways = [...trail, `then: ${ending.look ?? "no look"}, ${ending.end}`];
    try {
      const state = ending.look === undefined ? undefined : await this.#look(ending.look, allowed, ways);
      if (ending.look !== undefined && state === undefined) return undefined;
      return await this.#judgeEnd(ending, state === undefined ? allowed : [state], ways);
    } catch (error) {
      if (!(error instanceof BadState)) throw error;
      this.#bench.violate("a disk that no disk may be (rule 3)", ways, error.message);
      return undefined;
    }
  }

  /** Undefined where it was a violation. */
  async #look(
    look: string,
    allowed: readonly CopyState[],
    trail: readonly string[],
  ): Promise<CopyState | undefined> {
    const bench = this.#bench;
    const { exit, text } = await bench.ask(look.split(" "));
    if (exit !== 0) {
      bench.violate("the next command fails", trail, `\`${look}\` ends with ${exit}\n${text}`);
      return undefined;
    }
    const settled = fingerprintFolder(bench.live);
    await bench.ask(["recover"]);
    if (fingerprintFolder(bench.live) !== settled) {
      bench.violate("a second recovery changes something (rule 5)", trail, text);
    }
    const observed = await bench.observe();
    const state = this.#tell(observed);
    if (state === "kept") {
      this.kept += 1;
      this.#checkMarks(trail);
    }
    if (state !== undefined && allowed.includes(state)) return state;
    const detail = `${text}\n${differences(observed, this.#outcomes)}\njournals: ${bench.journals().length}`;
    bench.violate(`not wholly ${allowed.join(" or ")}, but ${state ?? "a mixture"}`, trail, detail);
    return undefined;
  }

  #tell(observed: string): CopyState | undefined {
    const journals = this.#bench.journals();
    for (const state of ["before", "after"] as const) {
      if (journals.length === 0 && observed === this.#outcomes.get(state)) return state;
    }
    const around = `${observed}\n`.replaceAll(STAGING, "").trimEnd();
    // What is removed loses its files first; the journal alone is a copy that begins anew.
    const hasFiles = around !== observed || this.#scenario.beginsKept === true;
    const isParked = journals.length === 1 && PARKED.test(journals[0] ?? "");
    return isParked && hasFiles && around === this.#outcomes.get("before") ? "kept" : undefined;
  }

  #readCopies(): Map<string, Uint8Array> {
    const { live } = this.#bench;
    const paths = this.#scenario.copies.map((path) => join(live, path)).filter((path) => existsSync(path));
    return new Map(paths.map((path) => [path, readGuest(openHostImage, path, path)]));
  }

  /** What lies below a mark must be in the unfinished copy, whatever the endings make of it. */
  #checkMarks(trail: readonly string[]): void {
    const [journal = ""] = this.#bench.journals();
    const { staging, marks } = readMarks(journal, this.#bench.launch.cwd);
    const open = (path: string) => openHostImage(staging.get(path) ?? path);
    for (const [path, offset] of marks) {
      const file = staging.get(path) ?? path;
      // The first file of a copy bears the mark. It is gone where its removal was cut off.
      if (offset === 0 || !existsSync(file)) continue;
      const wanted = this.#copied.get(path)?.subarray(0, offset);
      if (!wanted) throw new Error(`${path} is among the scenario's copies`);
      if (Buffer.compare(readGuest(open, file, path).subarray(0, offset), wanted) === 0) continue;
      this.#bench.violate("a mark of what is not there", trail, `${path}: marked up to ${offset}`);
    }
  }

  async #judgeEnd(
    { end }: Ending,
    allowed: readonly CopyState[],
    trail: readonly string[],
  ): Promise<CopyState | undefined> {
    const bench = this.#bench;
    const ended = await this.#end(end);
    if (bench.journals().length > 0) {
      bench.violate("the journal of an unfinished copy is left", trail, bench.journals().join("\n"));
    }
    const state = allowed.find((one) => this.#isEndFrom(one, end, ended));
    if (state !== undefined) return state;
    const wanted = new Map(
      allowed.map((one) => [one, this.#endings.get(`${startOf(one)} ${end}`)?.observed ?? ""]),
    );
    const detail = `exit statuses ${ended.exits.join(" ")}\n${differences(ended.observed, wanted)}`;
    bench.violate(`no ending from ${allowed.join(" or ")}`, trail, detail);
    return undefined;
  }

  #isEndFrom(state: CopyState, end: Ending["end"], ended: Ended): boolean {
    const wanted = this.#endings.get(`${startOf(state)} ${end}`);
    if (!wanted) throw new Error("each ending was learnt");
    if (state === "kept" && end === "cancel") {
      // Where nothing is kept there may be nothing to cancel, and no generation that says so.
      const [[exit], observed] = [ended.exits, withoutGenerations(ended.observed)];
      return exit === 0 && observed === withoutGenerations(wanted.observed);
    }
    if (ended.exits.join() !== wanted.exits.join()) return false;
    if (ended.observed === wanted.observed) return true;
    // Recovery finished the copy, and can't tell whether somebody wrote meanwhile: the next one brings it in sync anew.
    const isInDoubt = state === "after" && end === "copy";
    return isInDoubt && isAlikeButForMirror(ended.observed, wanted.observed);
  }

  async #end(end: Ending["end"]): Promise<Ended> {
    const exits: number[] = [];
    for (const argv of this.#commandsOf(end)) exits.push((await this.#bench.ask(argv)).exit);
    return { exits, observed: await this.#bench.observe() };
  }

  #commandsOf(end: Ending["end"]): (readonly string[])[] {
    const { copy, write } = this.#scenario;
    switch (end) {
      case "copy":
        return [copy.argv];
      case "write copy":
        return [write.argv, copy.argv];
      case "snapshot copy":
        return [["snapshot", "vda", "a1.qcow2"], copy.argv];
      case "cancel":
        return [["mirror", "--cancel", "vda"]];
      case "remove":
        return [["device", "remove", "vda"]];
    }
  }
}

/** Of an unfinished copy's journal: where its files are on their way, and their last marks, by final paths. */
function readMarks(
  journal: string,
  folder: string,
): { staging: ReadonlyMap<string, string>; marks: ReadonlyMap<string, number> } {
  const records = journal
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line.slice(line.indexOf("{"))) as JournalRecord);
  const marks = new Map<string, number>();
  const staging = new Map<string, string>();
  for (const { path, offset, newFiles = [] } of records) {
    if (path !== undefined && offset !== undefined) marks.set(resolve(folder, path), offset);
    for (const file of newFiles) staging.set(resolve(folder, file.path), resolve(folder, file.staging));
  }
  return { staging, marks };
}

function readGuest(open: OpenImage, file: string, path: string): Uint8Array {
  const guest = openGuest(open, file, path.endsWith(".qcow2") ? "qcow2" : "raw");
  return guest.read(0, guest.sizeBytes);
}

/** A copy that is kept must not be seen any more after an ending. */
function startOf(state: CopyState): "before" | "after" {
  return state === "after" ? "after" : "before";
}

function withoutGenerations(observed: string): string {
  return observed.replaceAll(/^(?:generation|history) .*\n/gm, "");
}
