// What strace wrote about a run: the calls that change the disk, and how to meet each of them again.
//
// Invariants
// - strace's `when` counts the calls of one name in one thread. So does this: a boundary is a thread, a name
//   and a number. Threads are told apart as the main one and all others; flushes are on the only pool thread.
// - A call that names no path of the scenario's folder is no boundary, but it is counted.
// - Ids differ from run to run and are taken out of labels, so that equal labels mean equal calls.

/** Calls that change what is on the disk, or make it durable. Others are not traced. */
const CHANGING_CALLS = [
  "pwrite64",
  "pwritev",
  "pwritev2",
  "write",
  "writev",
  "fsync",
  "fdatasync",
  "sync_file_range",
  "rename",
  "renameat",
  "renameat2",
  "link",
  "linkat",
  "symlink",
  "symlinkat",
  "unlink",
  "unlinkat",
  "mkdir",
  "mkdirat",
  "rmdir",
  "truncate",
  "ftruncate",
  "fallocate",
  "copy_file_range",
  "sendfile",
  "chmod",
  "fchmod",
  "fchmodat",
  "fchown",
  "utimensat",
  "openat",
] as const;

export const TRACED_CALLS = CHANGING_CALLS.join(",");

/** Calls that a full disk may refuse. */
const NEEDS_SPACE = new Set<string>([
  "pwrite64",
  "pwritev",
  "pwritev2",
  "write",
  "writev",
  "fsync",
  "fdatasync",
  "sync_file_range",
  "rename",
  "renameat",
  "renameat2",
  "link",
  "linkat",
  "symlink",
  "symlinkat",
  "mkdir",
  "mkdirat",
  "truncate",
  "ftruncate",
  "fallocate",
  "copy_file_range",
  "openat",
]);

export interface Boundary {
  readonly call: string;
  /** For strace's `when`. */
  readonly nth: number;
  /** The call and its paths, without what differs from run to run. */
  readonly label: string;
  /** The paths that it names, as they are. */
  readonly paths: readonly string[];
  /** Whether it prints the result: nothing is left to do for the disk then. */
  readonly isResult: boolean;
}

interface TracedCall extends Boundary {
  readonly isMain: boolean;
  readonly text: string;
}

export function canRunOutOfSpace({ call }: Boundary): boolean {
  return NEEDS_SPACE.has(call);
}

/** Every call of a trace, in the order in which they were entered. */
function readTrace(trace: string, root: string): TracedCall[] {
  const counts = new Map<string, number>();
  const calls: TracedCall[] = [];
  let main: string | undefined;
  for (const line of trace.split("\n")) {
    const match = /^(\d+) +(\w+)\((.*)$/.exec(line);
    if (!match) continue;
    const [, thread = "", call = "", text = ""] = match;
    main ??= thread;
    const key = `${thread} ${call}`;
    const nth = (counts.get(key) ?? 0) + 1;
    counts.set(key, nth);
    const paths = pathsIn(text, root);
    calls.push({
      call,
      nth,
      paths,
      label: labelOf(call, paths, text, root),
      isResult: call === "write" && /^1</.test(text),
      isMain: thread === main,
      text,
    });
  }
  return calls;
}

/** The calls that change the scenario's folder, and the one that prints the result. */
export function boundariesIn(trace: string, root: string): Boundary[] {
  return readTrace(trace, root).filter(
    ({ call, paths, text, isResult }) =>
      isResult || (paths.length > 0 && (call !== "openat" || /O_CREAT|O_TRUNC/.test(text))),
  );
}

/** What the call was that a boundary of another run names in this one. */
export function labelsAt(trace: string, root: string, { call, nth }: Boundary): string[] {
  return readTrace(trace, root)
    .filter((one) => one.call === call && one.nth === nth)
    .map(({ label }) => label);
}

export function countInjected(trace: string): number {
  return trace.split("\n").filter((line) => line.endsWith("(INJECTED)")).length;
}

/** Paths below root, by name or by an open descriptor. The folder that a relative name starts from is none. */
function pathsIn(text: string, root: string): string[] {
  const arguments_ = text.replaceAll(/AT_FDCWD<[^>]*>/g, "AT_FDCWD");
  const found = [...arguments_.matchAll(/["<]((?:\\.|[^"<>\\])*)[">]/g)].map((match) => match[1] ?? "");
  return found.filter((path) => path === root || path.startsWith(`${root}/`));
}

function labelOf(call: string, paths: readonly string[], text: string, root: string): string {
  const offset = call.startsWith("pwrite") ? (/, (\d+)\) /.exec(text)?.[1] ?? "") : "";
  const names = paths.map((path) =>
    path.slice(root.length + 1).replaceAll(/(journal\/|\.imgtx-)[a-z0-9]{8,}(?=[.-])/g, "$1ID"),
  );
  const isSmall = Number(offset) < 2 ** 20 && names.some((name) => !name.includes("journal/"));
  return `${call} ${names.join(" -> ")}${offset !== "" && isSmall ? ` at ${offset}` : ""}`.trim();
}
