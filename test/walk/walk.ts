// A walk: some hundred commands at random on three devices, among guests that write, kills, full disks, disks that
// are away, times that lie, and recoveries that are cut off in turn; held against a model of what each device holds.
//
// Invariants
// - The same seed takes the same way, as far as processes do: what was done is told with a fault.
// - A command that was cut off has done all or nothing: the generation tells which, and the content has to fit.
// - What a guest has written and flushed is there afterwards, also between a crash and its recovery, unless a
//   command that imgtx named, and that says what it leaves, was chosen to leave it.

import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { makeImage, type Move, own } from "./ground.ts";
import { flatten, proposeMove } from "./moves.ts";
import type { Cut, Ended } from "./tools.ts";
import { Walker, type WalkOptions } from "./walker.ts";
import { Fault, isSame, readContent, sayEnd, worldFrom } from "./world.ts";

export interface WalkReport {
  readonly steps: number;
  readonly figures: Readonly<Record<string, number>>;
  /** What was done last, the fault behind it; undefined where none was found. */
  readonly fault: string | undefined;
}

const LAST_LINES = 40;
/** Busy, in a transaction, no place for a bitmap, refused, to be finished. */
const REFUSALS: readonly number[] = [10, 11, 12, 13, 14, 16];

export async function takeWalk(options: WalkOptions): Promise<WalkReport> {
  const walk = new Walk(options);
  let step = 0;
  try {
    await walk.begin();
    for (; step < options.steps && Date.now() < options.deadline; step += 1) await walk.step(step);
    await walk.end();
    return { steps: step, figures: walk.figures, fault: undefined };
  } catch (error) {
    const what = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    const isOwn = error instanceof Error && !["Fault", "Hang"].includes(error.name);
    const trail = walk.trail.slice(-LAST_LINES).join("\n");
    const stack = isOwn ? `\n${error.stack ?? ""}` : "";
    const fault = `seed ${options.seed}, step ${step}: ${what}${stack}\n${trail}`;
    return { steps: step, figures: walk.figures, fault };
  }
}

class Walk extends Walker {
  async begin(): Promise<void> {
    for (const folder of [...this.folders, this.place.cwd]) mkdirSync(folder);
    const [a = "", b = ""] = this.folders;
    const images = [
      ["vda", join(a, "vda.qcow2"), "qcow2", []],
      ["vdb", join(b, "vdb.raw"), "raw", []],
      ["vdc", join(b, "vdc.qcow2"), "qcow2", ["-o", "compat=0.10"]],
    ] as const;
    for (const [index, [name, file, format, how]] of images.entries()) {
      makeImage(file, format, index + 1, { options: how });
      await this.run(["device", "add", name, file, "--format", format], 0);
    }
    // An undo goes no further than over what moved no image: the devices stay.
    await this.run(["mirror", "vda", join(a, "first.raw"), "--format", "raw"], 0);
    await this.run(["mirror", "--cancel", "vda"], 0);
    const listing = await this.list();
    this.world = worldFrom(listing, ({ image, format }) => readContent(image, format), undefined);
  }

  async step(step: number): Promise<void> {
    const what = this.random.below(100);
    if (what < 25) this.#guestStep();
    else if (this.open) await this.#stepInside(what);
    else if (what < 32) await this.#beginTransaction();
    else if (what < 38) await this.#race();
    else await this.#moveStep();
    await this.look(step % 5 === 0);
  }

  async end(): Promise<void> {
    if (this.open) await this.#endTransaction("abort");
    await this.recover();
    await this.look(true);
  }

  // A guest, mostly honest.

  #guestStep(): void {
    const name = this.pickName();
    if (name !== undefined) this.guest(name);
  }

  // Commands by themselves.

  async #moveStep(): Promise<void> {
    const long = this.findLong();
    const move = long === undefined ? proposeMove(this.ground(), "alone") : flatten(this.ground(), long);
    const chaos = this.random.below(100);
    this.mark();
    if (chaos < 50) await this.#settle(move, await this.run(move.argv, undefined, move), false);
    else if (chaos < 75) await this.#cutOff(move, this.aCut("signal=KILL"));
    else if (chaos < 88) await this.#cutOff(move, this.aCut(chaos < 82 ? "error=ENOSPC" : "error=EIO"));
    else await this.#whileAway(move);
  }

  async #cutOff(move: Move, cut: Cut): Promise<void> {
    const ended = await this.run(move.argv, undefined, { ...move, cut });
    if (ended.status === undefined) this.count("kills");
    else if (cut.effect !== "signal=KILL") this.count("errors");
    // A guest, before anybody has looked: the host has started anew, and its guests with it.
    if (ended.status === undefined && this.random.below(3) === 0) {
      const name = this.pickName();
      if (name !== undefined) this.guest(name);
      this.count("guests before recovery");
    }
    const isAway = this.random.below(5) === 0 && this.takeAway();
    if (isAway) {
      await this.run(["device", "list"], 0);
      await this.run(["recover"], undefined);
      this.bringBack();
      this.count("disks away at recovery");
    }
    if (this.random.below(3) === 0) {
      const again = await this.run(["recover"], undefined, { cut: this.aCut("signal=KILL") });
      if (again.status === undefined) this.count("kills of recovery");
    }
    await this.#settle(move, ended, true);
  }

  async #whileAway(move: Move): Promise<void> {
    if (!this.takeAway()) return;
    const ended = await this.run(move.argv, undefined, move);
    this.bringBack();
    this.count("disks away");
    await this.#settle(move, ended, true);
  }

  /** Recovers, and has the model follow what became of the move. */
  async #settle(move: Move, ended: Ended, mustRecover: boolean): Promise<void> {
    const choice = mustRecover || ended.status === 16 ? await this.recover() : undefined;
    const listing = await this.list();
    this.follow(move, listing, choice);
    if (ended.status === 0 && choice === undefined) this.#assertInSync(move);
    if (ended.status === 0) this.count("done");
  }

  #assertInSync({ inSync, argv }: Move): void {
    for (const name of inSync) {
      const device = this.world.devices.get(name);
      if (!device?.mirror) throw new Fault(`${argv.join(" ")}: ${name} has no mirror`);
      const { image, format, sync } = device.mirror;
      if (sync === "none" || !existsSync(image)) continue;
      if (argv[0] === "mirror" && this.#isTwin(image)) continue;
      if (!isSame(readContent(image, format), device.content)) {
        throw new Fault(`${argv.join(" ")} ended with 0, and ${image} is not in sync with ${name}`);
      }
      this.count("mirrors compared");
    }
  }

  /** The twin of a migration is made over a parent chain that is copied first, and is in sync only by reopen. */
  #isTwin(image: string): boolean {
    return image.startsWith(`${this.folders[2] ?? ""}/`);
  }

  // Recovery, to its end.

  // Transactions of several commands.

  async #beginTransaction(): Promise<void> {
    const ended = await this.run(["txn", "begin", "-q"], undefined);
    const id = ended.stdout.trim();
    if (ended.status !== 0 || id === "") throw new Fault(`txn begin: ${sayEnd(ended)}`);
    this.open = { id, moves: [] };
    this.count("transactions");
  }

  async #stepInside(what: number): Promise<void> {
    const open = this.open;
    if (!open) return;
    if (what >= 75) return await this.#endTransaction(what >= 83 ? "commit" : "abort");
    const move = proposeMove(this.ground(), "inside");
    const cut = this.random.below(5) === 0 ? this.aCut("signal=KILL") : undefined;
    const before = await this.#countActions(open.id);
    const ended = await this.run(["--txn", open.id, ...move.argv], undefined, { ...move, cut });
    if (ended.status === undefined) {
      this.count("kills");
      await this.recover();
      await this.#checkOpen();
    }
    if (this.open && (await this.#countActions(open.id)) > before) open.moves.push(move);
  }

  async #endTransaction(how: "commit" | "abort"): Promise<void> {
    const open = this.open;
    if (!open) return;
    const cut = this.random.below(3) === 0 ? this.aCut("signal=KILL") : undefined;
    this.mark();
    const ended = await this.run(["txn", how, "--txn", open.id], undefined, { cut });
    if (ended.status === undefined) {
      this.count("kills");
      if (this.random.below(2) === 0) this.#guestStep();
    }
    await this.recover();
    await this.#checkOpen();
    if (this.open) await this.run(["txn", "abort", "--txn", open.id], 0);
    this.open = undefined;
    const listing = await this.list();
    const effects = open.moves.flatMap((move) => move.effects ?? []);
    this.follow(own(["txn", how], { effects }), listing, undefined);
  }

  async #countActions(id: string): Promise<number> {
    const ended = await this.run(["txn", "show", "--txn", id, "--json"], 0);
    return (JSON.parse(ended.stdout) as { transaction: { actions: unknown[] } }).transaction.actions.length;
  }

  async #checkOpen(): Promise<void> {
    const ended = await this.run(["txn", "list", "--json"], 0);
    const { transactions } = JSON.parse(ended.stdout) as { transactions: { id: string }[] };
    if (!transactions.some(({ id }) => id === this.open?.id)) this.open = undefined;
  }

  // Two at once.

  async #race(): Promise<void> {
    const moves = [1, 2].map(() => proposeMove(this.ground(), "beside another"));
    this.mark();
    const ended = await Promise.all(moves.map((move) => this.run(move.argv, undefined, move)));
    this.count("races");
    const odd = ended.find(
      ({ status }, index) =>
        status !== 0 && moves[index]?.argv[0] !== "img" && !REFUSALS.includes(status ?? -1),
    );
    if (odd) throw new Fault(`of two at once one ended with ${sayEnd(odd)}`);
    await this.recover();
    const listing = await this.list();
    const done = moves.filter((_, index) => [0, 16].includes(ended[index]?.status ?? -1));
    const effects = done.flatMap((move) => move.effects ?? []);
    this.follow(own(["two at once"], { effects }), listing, undefined);
  }
}
