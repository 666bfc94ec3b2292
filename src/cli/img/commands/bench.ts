// imgtx img bench
//
// Invariants
// - Requests are really made, of the size, at the place and as many at once as was said: what can't be done so is
//   refused, and never measured as something else.
// - What is written to is open as a guest has it: locked, and sound after a power cut at any moment.

import { whileOpen } from "../../../errors/index.ts";
import { openExistingTarget } from "../../../format/index.ts";
import { type Load, sendAll, type Target } from "./bench-load.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { guardTargets } from "../images/guard-target.ts";
import { assertWhole, parseImageName } from "../grammar/image-name.ts";
import { explained, openSource, parseDriver, sourceOptions } from "../images/images.ts";
import type { ImgInput } from "../grammar/input.ts";
import { lockWaiting } from "../images/lock-waiting.ts";
import { failure } from "../grammar/messages.ts";
import {
  cacheOption,
  forceShareOption,
  formatOption,
  imageOptsOption,
  isCacheMode,
  objectOption,
  quietOption,
} from "../grammar/options.ts";
import { readCount } from "../grammar/size.ts";

const INT_MAX = 2147483647;
const COUNT_DEFAULT = 75_000;
const DEPTH_DEFAULT = 64;
const SIZE_BYTES_DEFAULT = 4096;
const AIO_WORDS: readonly string[] = ["threads", "native", "io_uring"];
/** What all requests that are made at once may hold. */
const MEMORY_BYTES_MAX = 2 ** 28;

export const bench: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      {
        short: "c",
        newer: ["count"],
        value: { name: "COUNT", completes: "nothing" },
        about: "how many requests; 75000 by default",
      },
      {
        short: "d",
        newer: ["depth"],
        value: { name: "DEPTH", completes: "nothing" },
        about: "how many of them at once; 64 by default",
      },
      formatOption,
      {
        long: "flush-interval",
        value: { name: "FLUSH_INTERVAL", completes: "nothing" },
        about: "with -w: flush after so many requests",
      },
      {
        short: "i",
        newer: ["aio"],
        value: { name: "AIO", completes: ["threads"] },
        about: "threads, which imgtx has; native and io_uring are refused",
      },
      { short: "n", newer: ["native"], about: "refused: the kernel's own asynchronous I/O is not used" },
      { long: "no-drain", about: "with --flush-interval: go on with requests while it is flushed" },
      {
        short: "o",
        newer: ["offset"],
        value: { name: "OFFSET", completes: "nothing" },
        about: "where on the disk the first request is made",
      },
      {
        long: "pattern",
        value: { name: "PATTERN", completes: "nothing" },
        about: "with -w: the byte that is written; 0 by default",
      },
      { ...quietOption, about: "taken: the result is all that is printed" },
      {
        short: "s",
        newer: ["buffer-size"],
        value: { name: "BUFFER_SIZE", completes: "nothing" },
        about: "the size of a request; 4k by default",
      },
      {
        short: "S",
        newer: ["step-size"],
        value: { name: "STEP_SIZE", completes: "nothing" },
        about: "how far the next request is from this one; the size of a request by default",
      },
      {
        ...cacheOption,
        about:
          "writeback, unsafe (without flushes) or writethrough (a flush after each write); others are refused",
      },
      { short: "w", newer: ["write"], about: "write, which changes the image" },
      forceShareOption,
      objectOption,
      imageOptsOption,
    ],
    about:
      "Reads from an image, or writes to it, and tells how long that took. What is written replaces what the disk " +
      "holds there; an image that a device stands on is not written to.",
    examples: [
      { command: "imgtx img bench -c 1000 -s 64k disk.qcow2", about: "a thousand reads of 64 KiB" },
      {
        command: "imgtx img bench -w -c 1000 -d 1 --flush-interval 1 scratch.qcow2",
        about: "a thousand writes of 4 KiB, each durable before the next",
      },
    ],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "done",
      1: "failed; with -w some of it may be written",
      130: "interrupted; with -w some of it may be written",
    },
  },
  execute,
};

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, console, context, signal } = invocation;
  const load = readLoad(input);
  const operand = input.soleImage();
  refuseOtherThanSaid(input, load);
  const image = load.isWrite ? await openToWrite(invocation, operand) : await openToRead(invocation, operand);
  await whileOpen(image, async () => {
    const { count, sizeBytes, depth, start, stepBytes, flushEvery, isWrite } = load;
    console.print(
      `Sending ${count} ${isWrite ? "write" : "read"} requests, ${sizeBytes} bytes each, ${depth} in parallel ` +
        `(starting at offset ${start}, step size ${stepBytes})\n`,
    );
    if (flushEvery > 0) console.print(`Sending flush every ${flushEvery} requests\n`);
    const { host } = context.storage;
    const began = host.monotonicMs();
    await sendAll(load, image, signal);
    console.print(`Run completed in ${((host.monotonicMs() - began) / 1000).toFixed(3)} seconds.\n`);
  });
  return 0;
}

function readLoad(input: ImgInput): Load {
  const { qemuVersion } = input;
  const number = (flag: string, what: string, least: number, most = INT_MAX): number | undefined => {
    const text = input.text(flag);
    return text === undefined ? undefined : readCount(what, text, qemuVersion, { least, most });
  };
  const count = number("-c", "request count", 1) ?? COUNT_DEFAULT;
  const depth = number("-d", "queue depth", 1) ?? DEPTH_DEFAULT;
  const flushEvery = number("--flush-interval", "flush interval", 0) ?? 0;
  const start = input.sizeBytes("-o", "offset") ?? 0;
  const pattern = number("--pattern", "pattern byte", 0, 0xff) ?? 0;
  const limits = { least: 1, most: BigInt(INT_MAX) };
  const sizeBytes = input.sizeBytes("-s", "buffer size", limits) ?? SIZE_BYTES_DEFAULT;
  const stepName = qemuVersion < 10 ? "step_size" : "step size";
  const step = input.sizeBytes("-S", stepName, { least: 0, most: BigInt(INT_MAX) });
  const cache = input.text("-t");
  return {
    isWrite: input.flag("-w"),
    count,
    depth,
    start,
    sizeBytes,
    stepBytes: step === undefined || step === 0 ? sizeBytes : step,
    pattern,
    flushEvery,
    drains: !input.flag("--no-drain"),
    isUnsafe: cache === "unsafe",
    isWriteThrough: cache === "writethrough",
  };
}

/** What would be measured must be what was asked for. */
function refuseOtherThanSaid(input: ImgInput, { isWrite, flushEvery, depth, sizeBytes }: Load): void {
  const [aio = "threads", cache = "writeback"] = [input.text("-i"), input.text("-t")];
  const refusals: readonly (readonly [boolean, string])[] = [
    [!AIO_WORDS.includes(aio), `Invalid aio option: ${aio}`],
    [!isCacheMode(cache), "Invalid cache mode"],
    [!isWrite && flushEvery > 0, "--flush-interval is only available in write tests"],
    [flushEvery > 0 && flushEvery < depth, "Flush interval can't be smaller than depth"],
    [
      input.flag("-n") || aio !== "threads",
      `${input.flag("-n") ? "-n" : `-i ${aio}`}: imgtx reads and writes with threads only, and would measure those`,
    ],
    [
      ["none", "off", "directsync"].includes(cache),
      `-t ${cache}: imgtx goes through the kernel's cache, and would measure that`,
    ],
    [
      depth * sizeBytes > MEMORY_BYTES_MAX,
      `${depth} requests of ${sizeBytes} bytes at once: imgtx takes at most ${MEMORY_BYTES_MAX} bytes for all of them`,
    ],
  ];
  for (const [isRefused, message] of refusals) if (isRefused) throw failure(message);
}

async function openToRead(invocation: ImgInvocation, operand: string): Promise<Target> {
  const image = await openSource(invocation, operand, sourceOptions(invocation));
  return { image, close: async () => await image.close() };
}

async function openToWrite(invocation: ImgInvocation, operand: string): Promise<Target> {
  const { context, gate } = invocation;
  const options = sourceOptions(invocation);
  const name = parseImageName(operand, options.imageOpts);
  assertWhole(name, operand);
  if (options.forceShare || name.forceShare) {
    throw failure(`Could not open '${operand}': force-share=on can only be used with read-only images`);
  }
  const path = invocation.resolve(name.file);
  await guardTargets(invocation, [{ name: operand, path }], []);
  return await explained(invocation, operand, async () => {
    const target = { path, format: parseDriver(name.format ?? options.format) };
    const opened = await openExistingTarget(target, {
      storage: context.storage,
      waiting: lockWaiting(invocation),
      gate,
      durable: false,
    });
    return { image: opened.image, writable: opened.image, close: async () => await opened.close() };
  });
}
