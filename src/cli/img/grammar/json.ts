// JSON as QEMU prints it: four blanks a level, ASCII only, and the members of an object in the order of
// QEMU's dictionaries. Those are hash tables, walked bucket by bucket, so that the order looks like none; it
// is the same in every release, and what scripts that cut lines out of the text rely on.

const BUCKETS = 512;
const INDENT = "    ";

/** Members that are undefined are left out. */
export function drawJson(value: unknown, level = 0): string {
  if (Array.isArray(value)) {
    return enclose(
      "[]",
      value.map((each) => drawJson(each, level + 1)),
      level,
    );
  }
  if (typeof value === "object" && value !== null) {
    const members = sortAsQemu(Object.entries(value).filter(([, each]) => each !== undefined));
    return enclose(
      "{}",
      members.map(([name, each]) => `${quoteJson(name)}: ${drawJson(each, level + 1)}`),
      level,
    );
  }
  return typeof value === "string" ? quoteJson(value) : String(value);
}

/** The same on one line, as QEMU has it in names of images. */
export function drawJsonLine(value: unknown): string {
  return drawJson(value).replaceAll(/\n */g, (_, at: number, text: string) =>
    text[at - 1] === "," ? " " : "",
  );
}

function enclose(brackets: "[]" | "{}", parts: readonly string[], level: number): string {
  const [open, close] = brackets;
  const body = parts.map((part) => `\n${INDENT.repeat(level + 1)}${part}`).join(",");
  return `${open}${body}\n${INDENT.repeat(level)}${close}`;
}

/** A string in QEMU's escapes: everything beyond printable ASCII as UTF-16 units. */
export function quoteJson(text: string): string {
  return JSON.stringify(text)
    .replace(/\\(?:u([0-9a-f]{4})|.)/g, (escape, digits?: string) =>
      digits === undefined ? escape : `\\u${digits.toUpperCase()}`,
    )
    .replace(
      /[\u007f-\uffff]/g,
      (unit) => `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`,
    );
}

/** Buckets upwards; in one bucket what came last comes first. */
function sortAsQemu(members: readonly [string, unknown][]): [string, unknown][] {
  return members.toReversed().sort(([a], [b]) => bucketOf(a) - bucketOf(b));
}

// The hash of QEMU's dictionaries, in 32 bits.
function bucketOf(name: string): number {
  const bytes = new TextEncoder().encode(name);
  let value = Math.imul(0x238f13af, bytes.length) >>> 0;
  for (const [index, byte] of bytes.entries()) value = (value + (byte << ((index * 5) % 24))) >>> 0;
  return ((Math.imul(1103515243, value) + 12345) >>> 0) % BUCKETS;
}
