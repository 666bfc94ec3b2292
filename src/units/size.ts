// Sizes as qemu-img reads and prints them.

/** What a disk writes wholly or not at all, and what qemu-img and qcow2 count in where they do not count bytes. */
export const SECTOR_BYTES = 512;

const SUFFIX_POWER: Readonly<Record<string, number>> = {
  b: 0,
  k: 1,
  m: 2,
  g: 3,
  t: 4,
  p: 5,
  e: 6,
};

const DECIMAL = /^(\d+)(?:\.(\d+))?([bkmgtpe])?$/i;
const HEXADECIMAL = /^0x[0-9a-f]+$/i;

/**
 * Bytes from a size as qemu-img's command line takes it: `1.5G`, `64k`, `0x400`, `512`. Powers of 1024.
 * Undefined for what qemu-img refuses (`10GiB`, `1e3`, `-1`, a fraction of a byte without a suffix) and
 * for what a double can't hold exactly.
 */
export function parseSizeBytes(text: string): number | undefined {
  if (HEXADECIMAL.test(text)) {
    const bytes = Number(text);
    return Number.isSafeInteger(bytes) ? bytes : undefined;
  }
  const match = DECIMAL.exec(text);
  if (!match) return undefined;
  const [, whole = "", fraction, suffix] = match;
  const power = suffix === undefined ? 0 : (SUFFIX_POWER[suffix.toLowerCase()] ?? 0);
  if (fraction !== undefined && power === 0) return undefined;
  const scale = 1024 ** power;
  const bytes =
    Number(whole) * scale + (fraction === undefined ? 0 : Math.floor(Number(`0.${fraction}`) * scale));
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

const PRINTED_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** A size with three significant digits, as qemu-img prints it: `1.5 GiB`, `196 KiB`, `0 B`. */
export function formatBytes(bytes: number): string {
  let power = 0;
  let value = bytes;
  while (value >= 1000 && power < PRINTED_UNITS.length - 1) {
    value /= 1024;
    power += 1;
  }
  return `${roundToThreeDigits(value)} ${PRINTED_UNITS[power]}`;
}

/** `1.5 GiB (1610612736 bytes)`. */
export function sayBytes(bytes: number): string {
  return `${formatBytes(bytes)} (${bytes} bytes)`;
}

// Half to even, as C's printf does it: 192.5 is 192, and 193.5 is 194. Quotients of bytes are binary fractions,
// so that a half is exact.
function roundToThreeDigits(value: number): number {
  const scale = value >= 100 ? 1 : value >= 10 ? 10 : value >= 1 ? 100 : 1000;
  const scaled = value * scale;
  const whole = Math.floor(scaled);
  if (scaled - whole === 0.5) return (whole % 2 === 0 ? whole : whole + 1) / scale;
  return Number(value.toPrecision(3));
}
