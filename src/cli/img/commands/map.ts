// imgtx img map

import { whileOpen } from "../../../errors/index.ts";
import { posix } from "node:path";
import { setImmediate as letOthersRun } from "node:timers/promises";
import { endOf, type GuestOffset, guestOffset } from "../../../units/index.ts";
import { type Extent, ExtentCursor, measureStrips, type OpenedImage } from "../../../format/index.ts";
import { makeCanvas } from "../../render/canvas.ts";
import { drawStrip } from "../../render/strip.ts";
import { printable } from "../../render/printable.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import type { ImgConsole } from "../output/console.ts";
import { openSource, sourceOptions } from "../images/images.ts";
import { nameLayers, nameOfOperand } from "../output/layer-names.ts";
import { failure } from "../grammar/messages.ts";
import {
  forceShareOption,
  imageOptsOption,
  longFormatOption,
  objectOption,
  outputOption,
} from "../grammar/options.ts";

export const map: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      longFormatOption,
      outputOption,
      {
        long: "start-offset",
        short: "s",
        value: { name: "OFFSET", completes: "nothing" },
        about: "where to begin, in bytes of the virtual disk",
      },
      {
        long: "max-length",
        short: "l",
        value: { name: "LEN", completes: "nothing" },
        about: "how much of the virtual disk to tell of",
      },
      { long: "visual", about: "a strip for each image of the chain: which parts of the disk it decides" },
      objectOption,
      imageOptsOption,
      forceShareOption,
    ],
    about:
      "Tells which parts of the virtual disk are stored, in which image of the chain and where. For people only " +
      "what can be read there byte for byte, as JSON all of it.",
    examples: [
      { command: "imgtx img map disk.qcow2", about: "where data is" },
      { command: "imgtx img map --visual vm.qcow2", about: "the chain as strips" },
      { command: "imgtx img map --output=json vm.qcow2", about: "every part, zeros and gaps too" },
    ],
    exits: [0, 1],
  },
  execute,
};

/** One line of the map: what qemu-img tells of a part of the disk. */
interface Entry {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly compressed: boolean;
  readonly offset: number | undefined;
}

const NOTHING = {
  length: 0,
  depth: 0,
  present: false,
  zero: false,
  data: false,
  compressed: false,
  offset: undefined,
} as const;
const TEXT_BUFFERED = 64 * 1024;
/** Extents between two looks at what else goes on: cached tables never wait, so that a Ctrl-C would. */
const EXTENTS_AT_ONCE = 4096;

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, signal, qemuVersion } = invocation;
  const form = input.form;
  const start = input.sizeBytes("--start-offset", "start offset") ?? 0;
  const length = input.sizeBytes("--max-length", "max length") ?? Number.POSITIVE_INFINITY;
  const operand = input.soleImage();
  const options = sourceOptions(invocation);
  await whileOpen(await openSource(invocation, operand, options), async (image) => {
    const end = Math.min(start + length, image.virtualSizeBytes);
    const tellsCompressed = form === "json" && qemuVersion >= 8;
    const part = { start: guestOffset(start), end: guestOffset(end), signal, tellsCompressed };
    const out = new BufferedOutput(invocation.console);
    try {
      if (input.flag("--visual")) await printStrips(invocation, image, out);
      else if (form === "json") await printJson(image, part, out);
      else await printTable(image, part, nameFiles(image, operand, options.imageOpts), out);
    } finally {
      out.flush();
    }
  });
  return 0;
}

/** For each layer the name of the file that its data is in. */
function nameFiles(image: OpenedImage, operand: string, imageOpts: boolean): string[] {
  const { links } = image.chain;
  const names = nameLayers(nameOfOperand(operand, imageOpts), links);
  return links.map((link, depth) => link.header?.dataFileName ?? names[depth] ?? link.path);
}

/** What part of the disk is told of. */
interface Part {
  readonly tellsCompressed: boolean;
  readonly start: GuestOffset;
  readonly end: GuestOffset;
  readonly signal: AbortSignal;
}

async function printJson(image: OpenedImage, part: Part, out: BufferedOutput): Promise<void> {
  let before = "[";
  for await (const entry of listEntries(image, part)) {
    const { depth, present, zero, data, compressed, offset } = entry;
    const more = part.tellsCompressed ? `, "compressed": ${compressed}` : "";
    const place = offset === undefined ? "" : `, "offset": ${offset}`;
    out.print(
      `${before}{ "start": ${entry.start}, "length": ${entry.length}, "depth": ${depth}, ` +
        `"present": ${present}, "zero": ${zero}, "data": ${data}${more}${place}}`,
    );
    before = ",\n";
  }
  out.print("]\n");
}

/** Parts of a strip, and what stands beside it. */
const PARTS_MAX = 64;
const LABEL = 24;

async function printStrips(
  { context, signal }: ImgInvocation,
  image: OpenedImage,
  out: BufferedOutput,
): Promise<void> {
  const canvas = await makeCanvas(context.stdout, context.env, true);
  const parts = Math.max(8, Math.min(PARTS_MAX, (canvas.columns ?? Infinity) - LABEL - 1));
  const strips = await measureStrips(image, parts, signal);
  for (const [depth, link] of image.chain.links.entries()) {
    const name = printable(posix.basename(link.path));
    const label = name.length > LABEL ? `${name.slice(0, LABEL - 3)}...` : name.padEnd(LABEL);
    out.print(`${label} ${drawStrip(strips[depth] ?? [], canvas)}\n`);
  }
}

const COLUMN = 16;

async function printTable(
  image: OpenedImage,
  part: Part,
  files: readonly string[],
  out: BufferedOutput,
): Promise<void> {
  out.print(`${["Offset", "Length", "Mapped to"].map((title) => title.padEnd(COLUMN)).join("")}File\n`);
  for await (const entry of listEntries(image, part)) {
    if (!entry.data) continue;
    if (entry.offset === undefined) {
      throw failure("File contains external, encrypted or compressed clusters.");
    }
    if (entry.zero) continue;
    const columns = [entry.start, entry.length, entry.offset].map((bytes) =>
      hexadecimal(bytes).padEnd(COLUMN),
    );
    out.print(`${columns.join("")}${printable(files[entry.depth] ?? "")}\n`);
  }
}

/** As C's %#x: zero has no prefix. */
function hexadecimal(bytes: number): string {
  return bytes === 0 ? "0" : `0x${bytes.toString(16)}`;
}

/** Parts that go on from each other as one. At least one entry: of no length, where there is nothing to tell. */
async function* listEntries(image: OpenedImage, part: Part): AsyncGenerator<Entry> {
  const { start, end, signal } = part;
  let last: Entry | undefined;
  let found = 0;
  const cursor = new ExtentCursor(image, end);
  for (let at = start; at < end; ) {
    found += 1;
    if (found % EXTENTS_AT_ONCE === 0) await letOthersRun();
    signal.throwIfAborted();
    const extent = await cursor.find(at);
    const entry = toEntry(extent, at);
    if (last !== undefined && goesOn(last, entry, part)) {
      last = { ...last, length: last.length + entry.length };
    } else {
      if (last !== undefined) yield last;
      last = entry;
    }
    at = endOf(extent);
  }
  yield last ?? { ...NOTHING, start };
}

function toEntry(
  { start, lengthBytes, kind, depth, present, isData, hostOffset }: Extent,
  at: number,
): Entry {
  const skipped = at - start;
  return {
    start: at,
    length: lengthBytes - skipped,
    depth,
    present,
    zero: kind === "zero" || kind === "unallocated",
    data: isData,
    compressed: kind === "compressed",
    offset: hostOffset === undefined ? undefined : hostOffset + skipped,
  };
}

function goesOn(last: Entry, next: Entry, { tellsCompressed }: Part): boolean {
  return (
    last.zero === next.zero &&
    last.data === next.data &&
    (last.compressed === next.compressed || !tellsCompressed) &&
    last.present === next.present &&
    last.depth === next.depth &&
    (last.offset === undefined ? undefined : last.offset + last.length) === next.offset
  );
}

class BufferedOutput {
  readonly #console: ImgConsole;
  #text = "";

  constructor(console: ImgConsole) {
    this.#console = console;
  }

  print(text: string): void {
    this.#text += text;
    if (this.#text.length >= TEXT_BUFFERED) this.flush();
  }

  flush(): void {
    if (this.#text !== "") this.#console.print(this.#text);
    this.#text = "";
  }
}
