// The command line, from argv to an exit status. All that it needs of the process is in the context:
// no module below keeps state or touches the process, so that it can run any number of times in one.

import { EXIT_OF_CODE } from "../errors/index.ts";
import type { CliContext } from "./context.ts";
import type { Engine } from "./engine.ts";
import { COMMAND_TABLE } from "./command-table.ts";
import type { Command, RunnableRow } from "./running/command.ts";
import { areOfLooking } from "./grammar/exit-status.ts";
import { locateCommand, type Located } from "./grammar/locate.ts";
import { type InterruptWords, watchInterrupts } from "./interrupts.ts";
import { type Invocation, refuseOnce } from "./running/invocation.ts";
import type { Canvas } from "./render/canvas.ts";
import { startWorkProgress } from "./render/progress/work-progress.ts";
import { Report } from "./running/report.ts";
import { describeBuild } from "./version.ts";

export type { CliContext } from "./context.ts";

/** Runs one command and returns its exit status. Never throws. */
export async function run(argv: readonly string[], context: CliContext): Promise<number> {
  if (context.program === "qemu-img" || argv.includes("img")) {
    const { runAsImg } = await import("./img/start.ts");
    const status = await runAsImg(argv, context);
    if (status !== undefined) return await finishImg(status, context);
  }
  const located = locateCommand(argv, COMMAND_TABLE);
  const report = await Report.create(context, {
    json: located.wantsJson,
    quiet: false,
    verbose: located.wantsVerbose,
    refusesColor: located.refusesColor,
  });
  try {
    return await dispatch(argv, located, context, report);
  } catch (error) {
    return report.failure(error);
  }
}

/** Without loading what a report needs, unless there is something to report. */
async function finishImg(status: number, context: CliContext): Promise<number> {
  if (!(await context.stdout.settled?.())) return status;
  const options = { json: false, quiet: false, verbose: false, refusesColor: false };
  return await (await Report.create(context, options)).finish(status);
}

async function dispatch(
  argv: readonly string[],
  located: Located<RunnableRow>,
  context: CliContext,
  report: Report,
): Promise<number> {
  if (located.wantsVersion) {
    report.print(describeBuild());
    return await report.finish(0);
  }
  if (located.wantsHelp && (located.bare || located.row)) {
    report.print(await drawHelp(located.path, report.canvas, false));
    return await report.finish(0);
  }
  // Status 0 is kept for what was done: a script whose variable was empty must not go on.
  if (located.bare && !located.wantsJson) {
    report.printAside(await drawHelp(located.path, report.asideCanvas, true));
    return EXIT_OF_CODE.E_USAGE;
  }
  const { refuseUnknownCommand } = await import("./grammar/parser.ts");
  if (located.row === undefined) return refuseUnknownCommand(argv, located.path, COMMAND_TABLE);
  return execute(argv, located.row, context, report);
}

async function drawHelp(path: readonly string[], canvas: Canvas, short: boolean): Promise<readonly string[]> {
  const { helpFor } = await import("./commands/help.ts");
  return helpFor(path, COMMAND_TABLE, canvas, short);
}

async function execute(
  argv: readonly string[],
  row: RunnableRow,
  context: CliContext,
  early: Report,
): Promise<number> {
  const [command, { parseCommandLine }] = await Promise.all([row.load(), import("./grammar/parser.ts")]);
  if (command.kind === "img") throw new Error("a command of img came past img/start.ts");
  const { input, settings } = parseCommandLine(argv, row, command.definition, context);
  const { json, quiet, tellsProgress } = settings;
  const progress = startWorkProgress(context, { asJson: tellsProgress, json, quiet });
  const report = await Report.create(context, settings, progress.clear);
  const looks =
    command.kind === "plain" && (command.onlyLooks?.(input) ?? areOfLooking(command.definition.exits));
  const interrupts = watchInterrupts(context, looks ? stopping(report) : rollingBack(report));
  try {
    const loadEngine = async (): Promise<Engine> =>
      context.engine ?? (await import("../transaction/index.ts"));
    const invocation: Invocation = {
      input,
      settings,
      commands: COMMAND_TABLE,
      context,
      loadEngine,
      report,
      progress,
      signal: interrupts.signal,
    };
    return await report.finish(await executeCommand(command, invocation));
  } catch (error) {
    return report.failure(interrupts.explain(error));
  } finally {
    progress.stop();
    report.stopWaiting();
    early.stopWaiting();
    interrupts.stop();
  }
}

function rollingBack(report: Report): InterruptWords {
  return {
    first: (what) => {
      if (!report.isAsking) report.notice(`${what}: rolling back, unless it is committed already`);
    },
    later: () =>
      report.notice(
        "still at it; if this process is killed, the next imgtx command finishes or undoes the rest",
      ),
    error: (what) => `${what}; ${report.isAsking ? "nothing was done" : "rolled back"}`,
  };
}

/** Of a command that only looks. */
function stopping(report: Report): InterruptWords {
  return {
    later: () => report.notice("it stops after what it is at; nothing is changed"),
    error: (what) => `${what}; nothing was done`,
  };
}

async function executeCommand(
  command: Exclude<Command, { kind: "img" }>,
  invocation: Invocation,
): Promise<number> {
  if (command.kind === "plain") {
    if (command.isOnce !== true) refuseOnce(invocation);
    return command.execute(invocation);
  }
  const other = command.instead?.(invocation);
  if (other) {
    refuseOnce(invocation);
    return other(invocation);
  }
  const { executeAction } = await import("./running/action.ts");
  return executeAction(command, invocation);
}
