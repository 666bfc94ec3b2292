// Paths of the command line, made absolute without looking at the disk.

/**
 * Joins and tidies. `..` is taken away only where it meets a part of cwd, which has no symbolic links;
 * behind a name that the user gave it stays, since that name may be a link and `link/..` is elsewhere.
 */
export function absolutePath(cwd: string, path: string): string {
  const absolute = path.startsWith("/");
  const known = absolute ? [] : cwd.split("/").filter((part) => part !== "");
  const given: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === ".." && given.length === 0) known.pop();
    else given.push(part);
  }
  return `/${[...known, ...given].join("/")}`;
}
