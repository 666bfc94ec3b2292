// What both tools say of the image that a sequence ended with, and whether they say the same.

import { type Random } from "../helpers/random.ts";
import { pick } from "./differential-options.ts";
import type { Sequence } from "./differential-sequence.ts";
import type { Printed, Tools } from "./differential-tools.ts";

/** Throws at the first thing that is not as it must be. */
export async function judgeSequence(tools: Tools, sequence: Sequence): Promise<void> {
  const { current, model, random } = sequence;
  const { name, format } = current;
  const byQemu = await tools.readByQemu(name, format);
  const pieceBytes = pick(random, [65536, 1000, 700_001, 8 * 1024 * 1024]);
  const byImgtx = await tools.readByImgtx(name, format, pieceBytes);
  if (!byQemu.equals(byImgtx)) {
    const at = byQemu.findIndex((byte, index) => byte !== byImgtx[index]);
    throw new Error(
      `the guest reads otherwise: ${byQemu.length} and ${byImgtx.length} bytes, first at ${at}`,
    );
  }
  const wrong = model.findDifference(byQemu);
  if (wrong !== undefined) throw new Error(`the guest reads what it did not write: ${wrong}`);
  for (const words of questions(random, name, format))
    await askBoth(tools, words, sequence.mayLeak ? [0, 3] : [0]);
}

function questions(random: Random, name: string, format: string): string[][] {
  const info = [
    ["info", "--output=json", "-f", format, name],
    ["info", "-f", format, name],
    ["info", "--backing-chain", "--output=json", "-f", format, name],
    ["info", "--backing-chain", "-f", format, name],
  ];
  const measure = ["measure", "--output=json", "-f", format];
  const clusterBytes = 2 ** pick(random, [9, 12, 16, 21]);
  const list = [
    ["map", "--output=json", "-f", format, name],
    [...measure, "-O", "qcow2", "-o", `cluster_size=${clusterBytes}`, name],
    pick(random, [info[0] ?? [], ...info]),
  ];
  if (random.below(4) === 0) list.push([...measure, "-O", "raw", name]);
  if (format === "qcow2") list.unshift(["check", "--output=json", "-f", format, name]);
  return list;
}

/** cleanStatuses: what a check may end with. */
async function askBoth(
  tools: Tools,
  words: readonly string[],
  cleanStatuses: readonly number[],
): Promise<void> {
  const qemu = tools.qemu("qemu-img", words);
  const ours = await tools.imgtx(words);
  const told = (printed: Printed): string => `${printed.status}\n${printed.stdout}${printed.stderr}`;
  if (qemu.status !== ours.status || qemu.stdout !== ours.stdout) {
    throw new Error(`${words.join(" ")}: they differ\nqemu-img ${told(qemu)}\nimgtx ${told(ours)}`);
  }
  if (words[0] === "check" && !cleanStatuses.includes(qemu.status))
    throw new Error(`it is not clean: ${told(qemu)}`);
}
