// imgtx img convert. It flushes only where -t says another cache mode than `unsafe`, qemu-img's default: a flush of
// gigabytes is what scripts would notice first. create and dd flush.

import { ImgtxError } from "../../../errors/index.ts";
import {
  openExistingTarget,
  convertToExisting,
  convertToNew,
  countBytesToCopy,
  type CopyRequest,
  listBitmapsToCopy,
  type NewTarget,
  type OpenedImage,
} from "../../../format/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { CONVERT_DEFINITION } from "./convert-definition.ts";
import { type ConvertFlags, readConvertFlags } from "./convert-flags.ts";
import { openTargetBacking, planTarget, type TargetPlan } from "./convert-target.ts";
import { drawOptionHelp } from "../grammar/create-options.ts";
import { guardTargets } from "../images/guard-target.ts";
import { assertWhole, parseImageName } from "../grammar/image-name.ts";
import { knownFormat, explained, openSource, parseDriver, sourceOptions } from "../images/images.ts";
import { lockWaiting } from "../images/lock-waiting.ts";
import { failure, LINE_BREAK, wordsOf } from "../grammar/messages.ts";
import { isCacheMode } from "../grammar/options.ts";
import { type Progress, startProgress } from "../output/progress.ts";
import { makeThrottle } from "../../throttle.ts";

const SPARSE_BYTES_DEFAULT = 4096;

export const convert: ImgCommand = {
  kind: "img",
  definition: CONVERT_DEFINITION,
  async execute(invocation) {
    const { input, console, qemuVersion } = invocation;
    const flags = readConvertFlags(input);
    const filenames = input.operands.slice(0, -1);
    const output = input.operands.length > 1 ? input.operands.at(-1) : undefined;
    if (flags.asksForHelp) {
      const format = knownFormat(flags.outputFormat ?? "raw");
      console.print(drawOptionHelp(format, output !== undefined, qemuVersion));
      return 0;
    }
    if (output === undefined) throw failure("Must specify image file name");
    if (!isCacheMode(flags.sourceCache)) throw failure(`Invalid source cache option: ${flags.sourceCache}`);
    const asked = input.flag("-p") && !flags.quiet;
    // qemu-img shows the start before it opens anything, and the end of the line after any error.
    if (asked && invocation.program === "qemu-img") console.print("    (0.00/100%)\r");
    const conversion = new Conversion(invocation, flags, output, asked);
    try {
      await conversion.run(filenames);
    } finally {
      conversion.stop();
    }
    return 0;
  },
};

class Conversion {
  readonly #invocation: ImgInvocation;
  readonly #flags: ConvertFlags;
  readonly #output: string;
  readonly #asked: boolean;
  #progress: Progress | undefined;

  constructor(invocation: ImgInvocation, flags: ConvertFlags, output: string, asked: boolean) {
    this.#invocation = invocation;
    this.#flags = flags;
    this.#output = output;
    this.#asked = asked;
  }

  async run(filenames: readonly string[]): Promise<void> {
    const sources: OpenedImage[] = [];
    try {
      for (const filename of filenames) sources.push(await this.#openSource(filename, filenames.length));
      await this.#convert(sources);
    } finally {
      await Promise.all(sources.map((source) => source.close()));
    }
  }

  stop(): void {
    const { program, console } = this.#invocation;
    if (this.#progress !== undefined) this.#progress.stop();
    else if (this.#asked && program === "qemu-img") console.print("\n");
  }

  async #openSource(filename: string, count: number): Promise<OpenedImage> {
    const options = sourceOptions(this.#invocation);
    const { snapshot } = this.#flags;
    if (snapshot === undefined) return openSource(this.#invocation, filename, options);
    // That the image can be opened at all comes first, as in qemu-img.
    await (await openSource(this.#invocation, filename, { ...options, warns: false })).close();
    if (count > 1) throw failure("No support for concatenating multiple snapshot");
    try {
      return await openSource(this.#invocation, filename, { ...options, snapshot });
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code !== "E_NOT_FOUND") throw error;
      throw failure("Failed to load snapshot: Can't find snapshot", error);
    }
  }

  async #convert(sources: readonly OpenedImage[]): Promise<void> {
    const totalBytes = sources.reduce((sum, { virtualSizeBytes }) => sum + virtualSizeBytes, 0);
    const plan = this.#flags.skipCreate
      ? undefined
      : await planTarget(this.#invocation, this.#flags, sources, totalBytes, this.#output);
    await this.#guardTarget(plan, sources);
    const backing = await openTargetBacking(
      this.#invocation,
      this.#flags,
      plan,
      this.#output,
      sources.length,
    );
    try {
      await this.#copy(sources, plan, totalBytes, backing?.sizeBytes);
    } finally {
      await backing?.image?.close();
    }
  }

  async #guardTarget(plan: TargetPlan | undefined, sources: readonly OpenedImage[]): Promise<void> {
    const name = this.#output;
    const path = plan?.path ?? this.#invocation.resolve(this.#existingTarget().file);
    const data = plan?.dataFilePath;
    const targets = [
      { name, path, isKept: plan === undefined },
      ...(data === undefined ? [] : [{ name: data, path: data }]),
    ];
    await guardTargets(this.#invocation, targets, sources);
  }

  #existingTarget(): ReturnType<typeof parseImageName> {
    const { outputFormat, targetImageOpts } = this.#flags;
    const name = parseImageName(this.#output, targetImageOpts);
    assertWhole(name, this.#output);
    if (targetImageOpts && outputFormat !== undefined) {
      throw failure("--image-opts and --format are mutually exclusive");
    }
    return name;
  }

  async #copy(
    sources: readonly OpenedImage[],
    plan: TargetPlan | undefined,
    totalBytes: number,
    backingBytes: number | undefined,
  ): Promise<void> {
    this.#refuseBitmaps(sources, plan);
    const bitmaps = await this.#listBitmaps(sources);
    if (!isCacheMode(this.#flags.cache)) throw failure(`Invalid cache option: ${this.#flags.cache}`);
    const copy = await this.#startCopy(sources, totalBytes, backingBytes);
    try {
      if (plan === undefined) await this.#convertToExisting(sources, copy);
      else await this.#convertToNew(sources, plan, bitmaps, copy);
    } catch (error) {
      throw this.#worded(error);
    }
    this.#progress?.complete();
  }

  async #listBitmaps(sources: readonly OpenedImage[]): Promise<NewTarget["bitmaps"]> {
    const [link] = sources[0]?.chain.links ?? [];
    if (!this.#flags.bitmaps || link === undefined) return undefined;
    const onBroken = (name: string): void => {
      this.#invocation.console.warning(`Skipping inconsistent bitmap '${name}'`);
    };
    try {
      const entries = await listBitmapsToCopy(link, this.#flags.skipBrokenBitmaps ? onBroken : undefined);
      return { source: link, entries };
    } catch (error) {
      if (!(error instanceof ImgtxError && error.code === "E_REFUSED")) throw error;
      const advice = "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it";
      throw failure(`${error.message}${LINE_BREAK}${advice}`, error);
    }
  }

  #refuseBitmaps(sources: readonly OpenedImage[], plan: TargetPlan | undefined): void {
    if (!this.#flags.bitmaps) return;
    if (sources.length > 1) throw failure("Copying bitmaps only possible with single source");
    if (sources[0]?.format !== "qcow2") throw failure("Source lacks bitmap support");
    const format = plan?.plan.format ?? this.#flags.outputFormat;
    if (format === "raw") throw failure("Format driver 'raw' does not support bitmaps");
    if (plan === undefined) throw failure("imgtx copies bitmaps into new images only");
  }

  async #startCopy(
    sources: readonly OpenedImage[],
    totalBytes: number,
    backingBytes: number | undefined,
  ): Promise<CopyRequest> {
    const { program, console, context, signal, tellsProgress } = this.#invocation;
    const { sparseBytes = SPARSE_BYTES_DEFAULT, compressed, atOnce, inOrder, inKernel } = this.#flags;
    const request = { compressed, sparseBytes, backingBytes, atOnce, inOrder, inKernel, signal };
    const isShown =
      tellsProgress || this.#asked || (context.stderr.isTTY && program === "imgtx" && !this.#flags.quiet);
    // Only who looks at it pays for knowing how much there is to do.
    const copyBytes = isShown
      ? await countBytesToCopy(sources, { ...request, clusterBytes: undefined, targetIsZero: false })
      : totalBytes;
    const progress = startProgress(
      {
        program,
        asked: this.#asked,
        quiet: this.#flags.quiet,
        stepPercent: 1,
        totalBytes: copyBytes,
        asJson: tellsProgress,
        isBegun: program === "qemu-img",
      },
      { ...context, console },
    );
    this.#progress = progress;
    return {
      ...request,
      throttle: makeThrottle(this.#flags.bytesPerSecond, context.storage.host, signal),
      salvage: this.#flags.salvage ? { onLost: (offset, error) => this.#tellLost(offset, error) } : undefined,
      onProgress: (doneBytes) => {
        progress.update(doneBytes);
      },
    };
  }

  #tellLost(offset: number, error: ImgtxError): void {
    const { console, names } = this.#invocation;
    if (!this.#flags.quiet) console.warning(`error while reading offset ${offset}: ${wordsOf(error, names)}`);
  }

  async #convertToNew(
    sources: readonly OpenedImage[],
    target: TargetPlan,
    bitmaps: NewTarget["bitmaps"],
    copy: CopyRequest,
  ): Promise<void> {
    const { compressed, sparseBytes, salvage, bytesPerSecond } = this.#flags;
    const mayClone =
      !compressed &&
      !salvage &&
      sparseBytes === undefined &&
      bytesPerSecond === undefined &&
      target.mayBeSparse;
    const warnings = await convertToNew(sources, { ...target, mayClone, bitmaps }, copy, this.#around());
    for (const warning of warnings) this.#invocation.console.warning(warning);
  }

  async #convertToExisting(sources: readonly OpenedImage[], copy: CopyRequest): Promise<void> {
    const { outputFormat, targetIsZero } = this.#flags;
    const name = this.#existingTarget();
    const path = this.#invocation.resolve(name.file);
    const opened = await explained(this.#invocation, this.#output, async () =>
      openExistingTarget({ path, format: parseDriver(name.format ?? outputFormat) }, this.#around()),
    );
    await convertToExisting(sources, opened, { ...copy, targetIsZero }, this.#around());
  }

  #around(): Parameters<typeof convertToNew>[3] {
    const { context, gate } = this.#invocation;
    return {
      storage: context.storage,
      gate,
      waiting: lockWaiting(this.#invocation),
      durable: this.#flags.cache !== "unsafe",
    };
  }

  /** What is no error of reading or writing is one of making the target. */
  #worded(error: unknown): unknown {
    if (!(error instanceof ImgtxError) || this.#flags.skipCreate) return error;
    const { names } = this.#invocation;
    const passes = ["E_INTERNAL", "E_INTERRUPTED", "E_TERMINATED"].includes(error.code);
    if (passes || error.doing === "copy") return error;
    const words = wordsOf(error, names);
    const format = this.#flags.outputFormat ?? "raw";
    return new ImgtxError(error.code, `${this.#output}: error while converting ${format}: ${words}`, {
      cause: error,
      ...(error.hint !== undefined && { hint: error.hint }),
      ...(error.image !== undefined && { image: error.image }),
    });
  }
}
