// The command line as the crash rig's subject: it runs commands in this process on a simulated disk, and
// sees what users see, by the commands' own answers and by readers that share no code with src.

import { run } from "../../src/cli/main.ts";
import type { Storage } from "../../src/storage/index.ts";
import type { Change } from "./disk-log.ts";
import { Tree } from "./disk-tree.ts";
import {
  changingImages,
  devicesIn,
  describeFiles,
  imageIn,
  disksIn,
  describeWorkspace,
  type Answers,
  type FolderView,
  type WorkspacePlace,
} from "./observation.ts";
import type { Race } from "./races.ts";
import { record } from "./recording.ts";
import { type SampleFile, type Scenario, WORKSPACE } from "./sample-devices.ts";
import type { RaceEntry } from "./scenarios.ts";
import { afterProcessDeath, SimulatedMachine } from "./simulated-disk.ts";
import { startGuest } from "./simulated-guest.ts";
import { startProcess } from "./simulated-process.ts";
import { BadState, type Plan, type RunResult, type Subject } from "./subject.ts";

/** Where scenarios live on the simulated disk. */
const ROOT = "/disks";
const CWD = `${ROOT}/${WORKSPACE}`;

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
    subject: subjectFor(scenario.files(), scenario, env),
    inSlice: scenario.inSlice === true,
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

async function layOut(files: readonly SampleFile[]): Promise<Tree> {
  const machine = new SimulatedMachine({ durable: new Tree() });
  const storage = startProcess(machine);
  for (const folder of [ROOT, CWD, `${ROOT}/images`]) await storage.makeFolder(folder, 0o755);
  for (const { path, bytes, mode } of files) {
    const file = await storage.createFile(`${ROOT}/${path}`, mode ?? 0o644);
    await file.write(bytes, 0);
    await file.close();
  }
  return machine.tree;
}

function subjectFor(
  files: readonly SampleFile[],
  { startsWithout = false, changing }: Pick<Scenario, "startsWithout" | "changing">,
  env: Environment = {},
): Subject {
  const place: WorkspacePlace = {
    workspace: CWD,
    original: new Set(files.map(({ path }) => `${ROOT}/${path}`)),
    changing: changingImages(ROOT, changing),
  };
  return {
    recover: ["recover"],
    probe: ["txn", "begin", "--name", "probe"],
    run: async (storage, argv) => {
      const result = await runCommand(storage, argv, env);
      const lacksWorkspace = startsWithout && argv[0] === "recover" && isLacking(result);
      return lacksWorkspace ? { ...result, exit: 0 } : result;
    },
    async runAfterReboot(machine, argv) {
      // Asked of a copy: recovery is to be the command's own.
      const asked = startProcess(afterProcessDeath(machine));
      const open = await runCommand(asked, ["txn", "list", "--quiet"], env);
      const [id, ...others] = open.out.split("\n").filter((line) => line !== "");
      const named = id !== undefined && others.length === 0 ? { IMGTX_TXN: id } : {};
      return await runCommand(startProcess(machine), argv, { ...env, ...named });
    },
    observe: async (machine) => describeWorkspace(viewOf(machine.tree), place, await askCommands(machine)),
    isDerived: (path) =>
      [`${CWD}/.imgtx/view/`, `${CWD}/.imgtx/devices.new`].some((start) => path.startsWith(start)),
    disksOf: disksIn,
    files: (tree) => describeFiles(viewOf(tree), place).join("\n"),
    devicesOf: devicesIn,
    startGuest: (machine, name, where) => startGuest(machine, `${CWD}/devices`, name, where),
  };
}

/** The journals on a disk. */
export function journalsIn(tree: Tree): string[] {
  return [...tree.entries()]
    .map(({ path }) => path)
    .filter((path) => path.startsWith(`${CWD}/.imgtx/journal/`) && path.endsWith(".journal"));
}

async function runCommand(
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

/** What the commands that only look say. They must not change anything. */
async function askCommands(machine: SimulatedMachine): Promise<Answers | undefined> {
  const table = machine.tree.lookUp(CWD, true).inode?.names.has(".imgtx");
  if (!table) return undefined;
  const before = machine.log.length;
  const devices = await runCommand(startProcess(machine), ["device", "list", "--json"]);
  if (isLacking(devices)) return undefined;
  const history = await runCommand(startProcess(machine), ["history", "--json"]);
  const transactions = await runCommand(startProcess(machine), ["txn", "status", "--json"]);
  for (const answer of [devices, history, transactions]) {
    if (answer.exit !== 0) throw new BadState(`a query ends with ${answer.exit}:\n${answer.text}`);
  }
  const changes = machine.log
    .slice(before)
    .filter((change) => !isSecuring(change) || !isWaiting(devices.out));
  if (changes.length > 0) throw new BadState("a query changed something behind recovery");
  return { devices: devices.out, history: history.out, transactions: transactions.out };
}

function isWaiting(devices: string): boolean {
  const answer = JSON.parse(devices) as { devices: { state: string }[] };
  return answer.devices.some(({ state }) => state === "waiting");
}

/** Each recovery writes a journal anew before it acts on what the journal says. */
function isSecuring({ path }: Change): boolean {
  return path.startsWith(`${CWD}/.imgtx/journal`);
}

function viewOf(tree: Tree): FolderView {
  return {
    entries: () =>
      [...tree.entries(tree.lookUp(ROOT, true).inode?.number, ROOT)].map(({ path, inode }) => ({
        path,
        kind: inode.kind,
        inode: String(inode.number),
        mode: inode.mode,
        content: inode.kind === "file" ? inode.content.digest() : inode.target,
      })),
    open: (path) => imageIn(tree, path),
    realPath: (path) => {
      const place = tree.lookUp(path, true);
      return place.inode && place.path;
    },
  };
}
