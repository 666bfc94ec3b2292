// The users of this system, and root's calls made with the rights of another one: so that the kernel judges them, and
// not a look at names before, which may lead elsewhere a moment later.
//
// Invariant: the effective user is root's own again before anything else of this process runs.

import { readFileSync } from "node:fs";
import { quietly } from "./quietly.ts";

/** The group of a user that this system does not know: none that gives rights. */
const NO_GROUP = 65534;

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

export function lookUpName(id: number): string {
  return readEntries("/etc/passwd").find((fields) => fields[2] === String(id))?.[0] || `#${id}`;
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
