// imgtx img check

import { elseClosed, ImgtxError } from "../../../errors/index.ts";
import {
  type CheckResult,
  type CheckSubject,
  checkQcow2,
  openForCheck,
  type RepairScope,
} from "../../../format/index.ts";
import { toTwoDecimals } from "../../../units/index.ts";
import { printable } from "../../render/printable.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { openSettled } from "../images/beside.ts";
import { parseImageName } from "../grammar/image-name.ts";
import { belowTop, explained, holdByDepth, parseDriver, partOf, sourceOptions } from "../images/images.ts";
import { commaFrom11, failure, usageError } from "../grammar/messages.ts";
import type { QemuVersion } from "../grammar/qemu-version.ts";
import {
  forceShareOption,
  imageOptsOption,
  isCacheMode,
  longFormatOption,
  objectOption,
  outputOption,
  quietOption,
  sourceCacheOption,
} from "../grammar/options.ts";
import { type Fixed, repairImage } from "./repair-image.ts";
import { warnOfStaleBitmaps } from "../images/stale-bitmaps.ts";

const STATUS_FAILED = 1;
const STATUS_ERRORS = 2;
const STATUS_LEAKS = 3;
const STATUS_NO_CHECKS = 63;

const NOTHING: Fixed = { leaksFixed: 0, corruptionsFixed: 0 };

export const check: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      quietOption,
      longFormatOption,
      outputOption,
      {
        long: "repair",
        short: "r",
        value: { name: "WHAT", completes: ["leaks", "all"] },
        about: "repair it first: leaks for lost space alone, all for errors too",
      },
      sourceCacheOption,
      objectOption,
      imageOptsOption,
      { ...forceShareOption, about: `${forceShareOption.about}; not with -r` },
    ],
    about:
      "Counts every reference of a qcow2 image and compares with the refcounts that it stores. Findings go to " +
      "stderr, one a line. Errors endanger data; leaks only waste space. With -r refcounts, and the flags that depend on " +
      "them, are set right first, in one transaction; an entry that can't be true stays, and nothing that it may have " +
      "led to is given away. Where the image is that of a device, the device is repaired.",
    examples: [
      { command: "imgtx img check disk.qcow2", about: "whether the image is sound" },
      { command: "imgtx img check --output=json disk.qcow2", about: "counts and figures, as JSON" },
      { command: "imgtx img check -r leaks disk.qcow2", about: "give lost space back, and check the rest" },
    ],
    exits: [0, 1, STATUS_ERRORS, STATUS_LEAKS, STATUS_NO_CHECKS],
    exitMeanings: {
      [STATUS_FAILED]: "the check or the repair could not be completed",
      [STATUS_ERRORS]: "the image has errors",
      [STATUS_LEAKS]: "the image has leaked clusters, and no errors",
      [STATUS_NO_CHECKS]: "the format has nothing to check",
    },
  },
  execute,
};

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, console, qemuVersion } = invocation;
  const form = input.form;
  const scope = readScope(input.text("--repair"), qemuVersion);
  const cacheMode = input.text("-T");
  if (cacheMode !== undefined && !isCacheMode(cacheMode)) {
    throw failure(`Invalid source cache option: ${cacheMode}`);
  }
  const operand = input.soleImage();
  const fixed = scope === undefined ? NOTHING : await repairFirst(invocation, operand, scope);
  const subject =
    fixed && (await explained(invocation, operand, async () => await open(invocation, operand)));
  try {
    if (fixed === undefined || subject === undefined || subject.format === "raw") {
      console.error("This image format does not support checks");
      return STATUS_NO_CHECKS;
    }
    if (scope === undefined) warnOfStaleBitmaps(invocation, [subject.header]);
    if (form === "human" && !input.flag("-q")) console.print(drawFixed(fixed));
    const result = await runCheck(invocation, operand, subject);
    if (!input.flag("-q")) {
      if (form === "json") console.printJson(resultData(operand, result, fixed));
      else console.print(drawResult(result));
    }
    if (result.checkErrors > 0) {
      console.error("Check failed");
      return STATUS_FAILED;
    }
    if (result.corruptions > 0) return STATUS_ERRORS;
    return result.leaks > 0 ? STATUS_LEAKS : 0;
  } finally {
    await subject?.close();
  }
}

function readScope(what: string | undefined, qemuVersion: QemuVersion): RepairScope | undefined {
  if (what === undefined || what === "leaks" || what === "all") return what;
  throw usageError(
    qemuVersion < 10
      ? `Unknown option value for -r (expecting 'leaks' or 'all'): ${what}`
      : `--repair (-r) expects 'leaks' or 'all'${commaFrom11(qemuVersion)} not '${what}'`,
  );
}

async function repairFirst(
  invocation: ImgInvocation,
  operand: string,
  scope: RepairScope,
): Promise<Fixed | undefined> {
  const lines = tellLines(invocation);
  try {
    return await repairImage(invocation, operand, scope, lines.sink);
  } finally {
    lines.flush();
  }
}

async function open(invocation: ImgInvocation, operand: string): Promise<CheckSubject> {
  const { context, gate } = invocation;
  const options = sourceOptions(invocation);
  const name = parseImageName(operand, options.imageOpts);
  const path = invocation.resolve(name.file);
  const isForced = options.forceShare || name.forceShare;
  const openHeld = async (): Promise<CheckSubject> => {
    const subject = await openSubject(path, () =>
      openForCheck(context.storage, path, {
        format: parseDriver(name.format ?? options.format),
        gate,
        // Another backing image than the one it names, or none, does not change what the image's tables say.
        backing: name.backing === undefined,
      }),
    );
    return await elseClosed(subject, async () => {
      // Of a part of a raw file there is nothing to check, but that it is there.
      partOf(name.part, (await subject.filesByDepth[0]?.[0]?.stat())?.sizeBytes ?? 0);
      if (!isForced) await holdByDepth(invocation, subject.filesByDepth);
      return subject;
    });
  };
  return await openSettled(invocation, openHeld, {
    filesOf: ({ filesByDepth }) => filesByDepth.flat().map((file) => file.path),
    close: async (subject) => await subject.close(),
    isForced,
  });
}

async function openSubject(path: string, open: () => Promise<CheckSubject>): Promise<CheckSubject> {
  try {
    return await open();
  } catch (error) {
    throw error instanceof ImgtxError ? belowTop(error, path) : error;
  }
}

const TEXT_BUFFERED = 64 * 1024;

/** Findings go to stderr as they come: a damaged image can have millions. */
function tellLines({ context, signal }: ImgInvocation): {
  readonly sink: (line: string) => void;
  readonly flush: () => void;
} {
  let text = "";
  const flush = (): void => {
    if (text !== "") context.stderr.write(text);
    text = "";
  };
  const sink = (line: string): void => {
    // Names stand in lines about snapshots only; all others are imgtx's own words.
    text += `${line.startsWith("ERROR snapshot") ? printable(line) : line}\n`;
    if (text.length < TEXT_BUFFERED) return;
    flush();
    signal.throwIfAborted();
  };
  return { sink, flush };
}

async function runCheck(
  invocation: ImgInvocation,
  operand: string,
  { file }: CheckSubject,
): Promise<CheckResult> {
  const { sink, flush } = tellLines(invocation);
  try {
    return await explained(invocation, operand, () => checkQcow2(file, sink, invocation.signal));
  } finally {
    flush();
  }
}

/** Under the keys of qemu-img's JSON, which leaves out what is zero. */
function resultData(filename: string, result: CheckResult, { leaksFixed, corruptionsFixed }: Fixed): unknown {
  const orNone = (count: number): number | undefined => (count === 0 ? undefined : count);
  return {
    filename,
    format: "qcow2",
    "check-errors": result.checkErrors,
    "image-end-offset": orNone(result.imageEndOffset),
    corruptions: orNone(result.corruptions),
    leaks: orNone(result.leaks),
    "corruptions-fixed": orNone(corruptionsFixed),
    "leaks-fixed": orNone(leaksFixed),
    "total-clusters": orNone(result.totalClusters),
    "allocated-clusters": orNone(result.allocatedClusters),
    "fragmented-clusters": orNone(result.fragmentedClusters),
    "compressed-clusters": orNone(result.compressedClusters),
  };
}

function drawFixed({ leaksFixed, corruptionsFixed }: Fixed): string {
  if (leaksFixed + corruptionsFixed === 0) return "";
  return (
    "The following inconsistencies were found and repaired:\n\n" +
    `    ${leaksFixed} leaked clusters\n    ${corruptionsFixed} corruptions\n\n` +
    "Double checking the fixed image now...\n"
  );
}

function drawResult(result: CheckResult): string {
  const { corruptions, leaks, checkErrors, totalClusters, allocatedClusters, imageEndOffset } = result;
  const parts: string[] = [];
  if (corruptions + leaks + checkErrors === 0) parts.push("No errors were found on the image.\n");
  if (corruptions > 0) {
    parts.push(
      `\n${corruptions} errors were found on the image.\n` +
        "Data may be corrupted, or further writes to the image may corrupt it.\n",
    );
  }
  if (leaks > 0) {
    parts.push(
      `\n${leaks} leaked clusters were found on the image.\n` +
        "This means waste of disk space, but no harm to data.\n",
    );
  }
  if (checkErrors > 0) parts.push(`\n${checkErrors} internal errors have occurred during the check.\n`);
  if (totalClusters > 0 && allocatedClusters > 0) {
    const percent = (count: number, of: number): string => `${toTwoDecimals((count * 100) / of)}%`;
    parts.push(
      `${allocatedClusters}/${totalClusters} = ${percent(allocatedClusters, totalClusters)} allocated, ` +
        `${percent(result.fragmentedClusters, allocatedClusters)} fragmented, ` +
        `${percent(result.compressedClusters, allocatedClusters)} compressed clusters\n`,
    );
  }
  if (imageEndOffset > 0) parts.push(`Image end offset: ${imageEndOffset}\n`);
  return parts.join("");
}
