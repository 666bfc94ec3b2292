// The command that makes and removes the volumes of a device, as an operator has given it.
//
// Invariants
// - A workspace leads to it, so whoever may write there would have it run by whoever works there: it is run only in a
//   workspace that nobody but its user and root may write to, whatever the user has listed as safe.
// - Nor is a program run that somebody else may write to.

import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";

const ROOT = 0;
const GROUP_OR_OTHERS_WRITE = 0o022;
const ANYBODY_RUNS = 0o111;

/** E_REFUSED, or E_NOT_FOUND, where the program can't be run, or is not to be. */
export async function assertRunnable(
  storage: Pick<Storage, "stat" | "host">,
  [program = ""]: readonly string[],
): Promise<void> {
  const stat = await storage.stat(program);
  if (stat?.kind !== "file") {
    throw new ImgtxError("E_NOT_FOUND", "there is no such program to make volumes", {
      image: program,
      hint: "name it by its path",
    });
  }
  if ((stat.mode & ANYBODY_RUNS) === 0) {
    throw new ImgtxError("E_REFUSED", "it is to make volumes, and can't be run", {
      image: program,
      hint: `\`chmod +x ${shellQuote(program)}\` makes it a program`,
    });
  }
  const isOthers = stat.ownerId !== ROOT && stat.ownerId !== storage.host.userId;
  if (!isOthers && (stat.mode & GROUP_OR_OTHERS_WRITE) === 0) return;
  throw new ImgtxError("E_REFUSED", "it is to make volumes, and others may write to it", {
    image: program,
    hint: isOthers
      ? `it belongs to ${storage.host.nameOfUser(stat.ownerId)}: take a program of your own, or of root's`
      : `take that away: \`chmod go-w ${shellQuote(program)}\``,
  });
}
