// The users of this system, and root's calls made with the rights of another one: so that the kernel judges them, and
// not a look at names before, which may lead elsewhere a moment later.
//
// Invariants
// - The effective user is root's own again before anything else of this process runs.
// - A name is what the system has for the number, and never what the environment says: sudo and cron leave USER as they like.

import { readFileSync } from "node:fs";
import { loadForeign } from "../native/foreign.ts";
import { quietly } from "../quietly.ts";

/** The group of a user that this system does not know: none that gives rights. */
const NO_GROUP = 65534;

/** Room for struct passwd (48 bytes), and for what its fields point to. */
const PASSWD_BYTES = 128;
const TEXTS_BYTES = 16_384;

/** What the call does after an await is done with root's own rights again. */
export function actAs<T>(userId: number, call: () => T): T {
  const { getgroups, setgroups, getegid, setegid, geteuid, seteuid } = process;
  if (!getgroups || !setgroups || !getegid || !setegid || !geteuid || !seteuid) return call();
  const own = { user: geteuid(), group: getegid(), groups: getgroups() };
  const groups = lookUpGroups(userId) ?? [];
  try {
    setgroups([...groups]);
    setegid(groups[0] ?? NO_GROUP);
    seteuid(userId);
    return call();
  } finally {
    seteuid(own.user);
    setegid(own.group);
    setgroups(own.groups);
  }
}

/** One without a name, as containers have them, is told as sudo takes it. */
export function lookUpName(id: number): string {
  const [name] = readEntries("/etc/passwd").find((fields) => fields[2] === String(id)) ?? [];
  return name || quietly(() => askForName(id), "") || `#${id}`;
}

/** Of users that no file has: the C library asks whatever else nsswitch.conf(5) names. "" where nobody knows. */
function askForName(id: number): string {
  const foreign = loadForeign();
  const ask = foreign
    .load(null)
    .func("int getpwuid_r(unsigned int id, void *entry, void *texts, size_t size, void *found)");
  const [entry, texts, found] = [new Uint8Array(PASSWD_BYTES), Buffer.alloc(TEXTS_BYTES), new Uint8Array(8)];
  const failed = ask(id, entry, texts, texts.length, found) !== 0;
  if (failed || found.every((byte) => byte === 0)) return "";
  // pw_name comes first, and points among the texts.
  const start = Number(Buffer.from(entry).readBigUInt64LE(0) - foreign.address(texts));
  return texts.toString("utf8", start, texts.indexOf(0, start));
}

/** The user's own group is the first. */
export function lookUpGroups(id: number): readonly number[] | undefined {
  const user = readEntries("/etc/passwd").find((fields) => fields[2] === String(id));
  if (user === undefined) return undefined;
  const isIn = (members = ""): boolean => members.split(",").includes(user[0] ?? "");
  const others = readEntries("/etc/group").filter((fields) => isIn(fields[3]));
  return [Number(user[3]), ...others.map((fields) => Number(fields[2]))];
}

/** Lines of fields, as passwd(5) and group(5) have them. None in a sandbox without the file. */
function readEntries(path: string): string[][] {
  const lines = quietly(() => readFileSync(path, "utf8").split("\n"), []);
  return lines.map((line) => line.split(":"));
}
