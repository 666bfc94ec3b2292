// Whether a command comes from where a transaction was begun. Only then does it join without being told to: a job
// of cron that found somebody's forgotten transaction would be undone with it, hours after it had ended with 0.
// From here is one login (audit session), or where there is none one session of the kernel. A service of the user's own
// systemd has the user's login, and is elsewhere by its cgroup.
//
// Invariant: what is not known joins nothing. A command that stays out can be told to join; one that joined by
// mistake can't be got out again.

import type { Host, Origin } from "../../storage/index.ts";
import type { BeginRecord } from "../journal/index.ts";

type Session = Origin["sessions"][number];

/** Null where the begin record does not tell: an earlier imgtx wrote it, or it is that of a single command. */
export function isFromHere(
  { origin, boot }: Pick<BeginRecord, "origin" | "boot">,
  host: Host,
): boolean | null {
  if (!origin) return null;
  // All that follows is numbered anew by each boot, and the processes by each container.
  if (boot !== host.bootId) return false;
  const here = host.origin;
  if (origin.processes !== here.processes) return false;
  // The kernel passes a login on to all that stems from it: where they differ, one of the two is another login.
  if (origin.login !== here.login) return false;
  return isSameLogin(origin, here) || sharesSession(origin, here);
}

/** Of one login. A service that the user's own systemd started is of one as well, and is not where the user types. */
function isSameLogin(there: Origin, here: Origin): boolean {
  return there.login !== null && there.service === here.service;
}

function sharesSession(there: Origin, here: Origin): boolean {
  return there.sessions.some((one) =>
    here.sessions.some((other) => one.id === other.id && isOneSession(one, other, there, here)),
  );
}

/** Two sessions of one number: that of a session is given again when the last process of it has gone. */
function isOneSession(one: Session, other: Session, there: Origin, here: Origin): boolean {
  if (one.started !== null && other.started !== null) return one.started === other.started;
  // Without /proc the number is all that anybody knows.
  if (there.processes === "") return true;
  // The first process has gone, as that of a login has which left a script running: a process that both come from.
  return there.ancestors.some(({ pid, started }) =>
    here.ancestors.some((each) => each.pid === pid && each.started === started),
  );
}
