// Paths of the command line, made absolute without looking at the disk.

import { ImgtxError } from "../../errors/index.ts";

/** What stands for bytes that are not UTF-8 once they have been decoded. */
const REPLACEMENT = "\u{FFFD}";

/**
 * Joins and tidies. `..` is taken away only where it meets a part of cwd, which has no symbolic links;
 * after a name that the user gave it stays, since that name may be a link and `link/..` is elsewhere.
 * E_USAGE for a name that is not UTF-8.
 */
export function absolutePath(cwd: string, path: string): string {
  if (path.includes(REPLACEMENT)) {
    // Its bytes are lost already: the file that would be opened or made has another name than the one given.
    throw new ImgtxError("E_USAGE", `'${path}' is not a name in UTF-8`, {
      hint: "imgtx takes names in UTF-8 only; rename the file or folder",
    });
  }
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

/** Whether it can only be the name of a folder: `d/`, `d/.` and `d/..`. What it leads to is not asked. */
export function namesFolder(path: string): boolean {
  return /(^|\/)\.{0,2}$/.test(path);
}

/** The absolute path of a file. E_NOT_A_FILE for a name of a folder, which would lose the slash at its end. */
export function absoluteFilePath(cwd: string, path: string): string {
  const absolute = absolutePath(cwd, path);
  if (!namesFolder(path)) return absolute;
  const message = `'${path}' names a folder, and a file is wanted`;
  throw new ImgtxError("E_NOT_A_FILE", message, { image: absolute, hint: adviseOnFolder(path) });
}

/** What to do about a name that can only be a folder's. */
export function adviseOnFolder(path: string): string {
  const inside = `name a file in it, such as '${path.replace(/\/?$/, "/")}disk.qcow2'`;
  return path.endsWith("/") ? `${inside}, or leave out the '/' at its end` : inside;
}
