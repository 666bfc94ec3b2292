// The command line as the crash rig's subject: it runs commands in this process on a simulated disk, and
// sees what users see, by what the commands' answers are made of and by readers that share no code with src.

import { posix } from "node:path";
import { run } from "../../src/cli/main.ts";
import { deviceJson, generationJson, snapshotJson, transactionJson } from "../../src/cli/render/json.ts";
import { ImgtxError } from "../../src/errors/index.ts";
import type { Storage } from "../../src/storage/index.ts";
import {
  describeDevices,
  listGenerations,
  listSnapshots,
  listTransactions,
  openSession,
  type Session,
} from "../../src/transaction/index.ts";
import { isFilledWith } from "../helpers/filled.ts";
import type { AwaySubject, SeenDevice } from "./judges/away.ts";
import { Tree } from "./simulated/disk-tree.ts";
import {
  changingImages,
  devicesIn,
  describeFiles,
  describeGuest,
  imageIn,
  disksIn,
  describeWorkspace,
  type Answers,
  type FolderView,
  type WorkspacePlace,
} from "./judges/observation.ts";
import type { Race } from "./judges/races.ts";
import { readGuest } from "./judges/seen-images.ts";
import { record } from "./simulated/recording.ts";
import { onTwoDisks, type SampleFile, type Scenario, WORKSPACE } from "./scenarios/sample-devices.ts";
import type { RaceEntry } from "./scenarios/scenarios.ts";
import { afterProcessDeath, SimulatedMachine } from "./simulated/simulated-disk.ts";
import { startGuest } from "./simulated/simulated-guest.ts";
import { startProcess } from "./simulated/simulated-process.ts";
import { BadState, ownStatus, type Plan, type RunResult, type Subject } from "./subject.ts";

/** Where scenarios live on the simulated disk. */
const ROOT = "/disks";
export const CWD = `${ROOT}/${WORKSPACE}`;
const IMAGES = `${ROOT}/images`;
const PIECE_BYTES = 64 * 1024;
/** Where the workspace lies while disks are taken away. */
const STAYS = "/home/ws";

type Environment = Readonly<Record<string, string>>;

/** A scenario on a simulated disk, and the command line to run it with. */
export interface Trial {
  readonly plan: Plan;
  readonly subject: Subject;
  readonly inSlice: boolean;
}

export async function trialOf(scenario: Scenario, env: Environment = {}): Promise<Trial> {
  const { name, prepare, steps, studied, mixes } = scenario;
  const disk = await layOut(scenario.files());
  return {
    plan: { name, disk, prepare, steps, ...(studied ? { studied } : {}), ...(mixes ? { mixes } : {}) },
    subject: subjectFor(scenario.files(), scenario, { ...scenario.env, ...env }),
    inSlice: scenario.inSlice === true,
  };
}

/**
 * The same for guests. An image in no workspace has one too, by the name that imgtx gives it then; and commands about what
 * waits beside it find that by a name of their own.
 */
export async function guestTrialOf(scenario: Scenario): Promise<Trial> {
  const trial = await trialOf(scenario);
  const place = imageAlone(scenario);
  if (!place) return trial;
  const { path, format } = place;
  const { subject } = trial;
  const beside = `${posix.dirname(path)}/.${posix.basename(path)}.imgtx`;
  return {
    ...trial,
    subject: {
      ...subject,
      run: (storage, argv) =>
        subject.run(storage, argv[0] === "txn" ? [...argv, "--workspace", beside] : argv),
      async observe(machine) {
        const guest = describeGuest(ALONE, readGuest(viewOf(machine.tree), path, format));
        return `device ${ALONE}: ${path} (${format})\n${guest}\n${await subject.observe(machine)}`;
      },
      startGuest: (machine, name, where) => startGuest(machine, path, name, where),
    },
  };
}

/** What imgtx calls an image that is in no workspace. */
const ALONE = "the-image";

/** The image that a scenario is about which is in no workspace. */
function imageAlone({
  startsWithout,
  recover,
  changing,
}: Scenario): { path: string; format: "qcow2" | "raw" } | undefined {
  const image = startsWithout === true ? recover?.at(-1) : undefined;
  if (image === undefined) return undefined;
  const path = posix.join(CWD, image);
  return { path, format: changing?.[posix.relative(ROOT, path)] === "raw" ? "raw" : "qcow2" };
}

/**
 * The same over two disks, each of which may be away, with the workspace on a third; but for an image in no workspace, which
 * its journal lies beside. Undefined where a scenario makes its workspace itself, or is about block devices.
 */
export async function awayTrialOf(
  scenario: Scenario,
): Promise<{ plan: Plan; subject: AwaySubject } | undefined> {
  // A device that is away takes its node along, and not what is in it.
  const hasDevices = scenario.files().some(({ isDevice }) => isDevice === true);
  if (hasDevices) return undefined;
  if (imageAlone(scenario)) {
    const disk = await layOut(scenario.files(), { [CWD]: 1, [IMAGES]: 2 });
    const { plan, subject } = await trialOf(scenario);
    const seen = { disks: [CWD, IMAGES], lookAtDevices: async () => await Promise.resolve([]) };
    return { plan: { ...plan, disk }, subject: { ...subject, ...seen, returns: [subject.recover] } };
  }
  if (scenario.startsWithout) return undefined;
  const { name, steps, studied, mixes, changing } = onTwoDisks(scenario);
  const files = onTwoDisks(scenario).files();
  const prepare = [{ argv: ["init"] }, ...onTwoDisks(scenario).prepare];
  const disk = await layOut(files, { [CWD]: 1, [IMAGES]: 2 });
  const env = { ...scenario.env, IMGTX_WORKSPACE: STAYS };
  const subject = subjectFor(files, { ...(changing && { changing }) }, env, STAYS);
  return {
    plan: { name, disk, prepare, steps, ...(studied ? { studied } : {}), ...(mixes ? { mixes } : {}) },
    subject: {
      ...subject,
      disks: [CWD, IMAGES],
      lookAtDevices: async (machine) => {
        for (const argv of [["history"], ["txn", "status"]]) {
          const { exit, text } = await runCommand(startProcess(machine), argv, env);
          if (exit !== 0) throw new BadState(`\`${argv.join(" ")}\` ends with ${exit}\n${text}`);
        }
        const { exit, out, text } = await runCommand(
          startProcess(machine),
          ["device", "list", "--json"],
          env,
        );
        if (exit !== 0) throw new BadState(`\`device list\` ends with ${exit}\n${text}`);
        return (JSON.parse(out) as { devices: SeenDevice[] }).devices;
      },
    },
  };
}

/** A race on the simulated disk, with its preparation done. */
export async function simulatedRaceOf(entry: RaceEntry): Promise<{ race: Race; subject: Subject }> {
  const subject = subjectFor(entry.files(), {});
  const { name, one, other } = entry;
  const plan: Plan = { name, disk: await layOut(entry.files()), prepare: entry.prepare, steps: [] };
  const { start } = await record(plan, subject);
  return { race: { name, disk: start, one, other, refusals: entry.refusals ?? [10, 11] }, subject };
}

/** A disk with these files and the folders of the scenarios. */
export async function layOut(
  files: readonly SampleFile[],
  disks: Readonly<Record<string, number>> = {},
): Promise<Tree> {
  const machine = new SimulatedMachine({ durable: new Tree() });
  const storage = startProcess(machine);
  for (const folder of [ROOT, CWD, IMAGES, posix.dirname(STAYS), STAYS])
    await storage.makeFolder(folder, 0o755);
  for (const [folder, disk] of Object.entries(disks)) machine.tree.mount(folder, disk);
  for (const { path, bytes, mode, isDevice } of files) {
    const folder = posix.dirname(`${ROOT}/${path}`);
    if (!(await storage.stat(folder))) await storage.makeFolder(folder, 0o755);
    if (isDevice === true) {
      machine.tree.attachDevice(`${ROOT}/${path}`, bytes);
      continue;
    }
    const file = await storage.createFile(`${ROOT}/${path}`, mode ?? 0o644);
    // With holes, as on a real disk: copies of it are cheap then.
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, at + PIECE_BYTES);
      if (!isFilledWith(0, piece)) await file.write(piece, at);
    }
    await file.truncate(bytes.length);
    await file.close();
  }
  return machine.tree;
}

function subjectFor(
  files: readonly SampleFile[],
  {
    startsWithout = false,
    changing,
    recover = ["recover"],
  }: Pick<Scenario, "startsWithout" | "changing" | "recover">,
  env: Environment = {},
  workspace = CWD,
): Subject {
  const place: WorkspacePlace = {
    workspace,
    original: new Set(files.map(({ path }) => `${ROOT}/${path}`)),
    changing: changingImages(ROOT, changing),
  };
  return {
    recover,
    probe: ["txn", "begin", "--name", "probe"],
    run: async (storage, argv) => {
      const result = await runCommand(storage, argv, env);
      const lacksWorkspace = startsWithout && argv[0] === "recover" && isLacking(result);
      return lacksWorkspace ? { ...result, exit: 0 } : { ...result, exit: ownStatus(argv, result) };
    },
    async runAfterReboot(machine, argv) {
      // Asked of a copy: recovery is to be the command's own.
      const asked = startProcess(afterProcessDeath(machine));
      const open = await runCommand(asked, ["txn", "list", "--quiet"], env);
      const [id, ...others] = open.out.split("\n").filter((line) => line !== "");
      const named = id !== undefined && others.length === 0 ? { IMGTX_TXN: id } : {};
      return await runCommand(startProcess(machine), argv, { ...env, ...named });
    },
    observe: async (machine) =>
      describeWorkspace(viewOf(machine.tree), place, await askCommands(machine, workspace, env)),
    isDerived: (path) =>
      [`${workspace}/.imgtx/view/`, `${workspace}/.imgtx/devices.new`].some((start) =>
        path.startsWith(start),
      ),
    disksOf: disksIn,
    files: (tree) => describeFiles(viewOf(tree), place).join("\n"),
    devicesOf: devicesIn,
    startGuest: (machine, name, where) => startGuest(machine, `${workspace}/devices/${name}`, name, where),
  };
}

/** The journals on a disk. */
export function journalsIn(tree: Tree): string[] {
  return [...tree.entries()]
    .map(({ path }) => path)
    .filter((path) => path.startsWith(`${CWD}/.imgtx/journal/`) && path.endsWith(".journal"));
}

/** One command in this process; `out` is what it prints as its result. */
export async function runCommand(
  storage: Storage,
  argv: readonly string[],
  env: Environment = {},
): Promise<RunResult & { out: string }> {
  let out = "";
  let err = "";
  const exit = await run(argv, {
    storage,
    cwd: CWD,
    env,
    stdout: { write: (text) => void (out += text), isTTY: false, columns: undefined },
    stderr: { write: (text) => void (err += text), isTTY: false, columns: undefined },
    stdin: () => Promise.resolve(""),
  });
  return { exit, text: `${out}${err}`, out };
}

function isLacking({ exit, text }: RunResult): boolean {
  return exit === 14 && /no workspace here|E_NO_WORKSPACE/.test(text);
}

/**
 * What the commands that only look say: `device list`, `history`, `snapshot-list` and `txn status`, by one session for all, since
 * this is asked more often than anything else. They must not change anything.
 */
export async function askCommands(
  machine: SimulatedMachine,
  workspace: string = CWD,
  env: Environment = {},
): Promise<Answers | undefined> {
  const table = machine.tree.lookUp(workspace, true).inode?.names.has(".imgtx");
  if (!table) return undefined;
  const before = machine.log.length;
  const session = await openToRead(startProcess(machine), env["IMGTX_WORKSPACE"]);
  if (!session) return undefined;
  const { generation, devices } = await describeDevices(session, undefined);
  const { generations } = await listGenerations(session, {});
  const snapshots = await listSnapshots(session, {});
  const transactions = await listTransactions(session);
  const changes = machine.log.slice(before).filter(({ kind }) => kind !== "flush");
  if (changes.length > 0) throw new BadState("a query changed something after recovery");
  const answers: Record<keyof Answers, unknown> = {
    generation,
    devices: devices.map(deviceJson),
    generations: generations.map(generationJson),
    snapshots: snapshots.map(snapshotJson),
    transactions: transactions.map(transactionJson),
  };
  return answers as Answers;
}

async function openToRead(storage: Storage, workspace: string | undefined): Promise<Session | undefined> {
  const place = { startFolder: CWD, workspace, createHere: false };
  try {
    return await openSession(storage, { ...place, caller: "reader", waitMs: 0, onWait: () => undefined });
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NO_WORKSPACE") return undefined;
    throw error;
  }
}

function viewOf(tree: Tree): FolderView {
  return {
    entries: () =>
      [...tree.entries(tree.lookUp(ROOT, true).inode?.number, ROOT)].map(({ path, inode }) => ({
        path,
        kind: inode.kind,
        inode: String(inode.number),
        mode: inode.mode,
        content: inode.kind === "file" || inode.kind === "device" ? inode.content.digest() : inode.target,
      })),
    open: (path) => imageIn(tree, path),
    realPath: (path) => {
      const place = tree.lookUp(path, true);
      return place.inode && place.path;
    },
  };
}
