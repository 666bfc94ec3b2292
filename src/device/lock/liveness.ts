// Whether who wrote something down may still be at work on it, where a free lock does not prove the contrary.
//
// A lock proves it only among those that share locks. Two machines on NFS with local locks, a host and its virtual
// machine on 9p, two FUSE mountings of one folder share none; neither does a process with a lock file that somebody has
// removed. So the process itself is asked for as well: of this run of the machine by its number, its start, and the
// namespace of both.
//
// Decisions
// - A process that the kernel shows is alive, whatever the locks say; one that it does not show where it would have to,
//   or of an earlier start of this machine, is gone.
// - What can't be told (another machine; another container, seen from beside it) is decided by the locks, where both
//   sides have them from a file system that shares them: containers on one local disk do. Else it stays unknown, and
//   what it left is nobody's to undo but by a person's word.

import type { ProcessMark } from "../../storage/index.ts";
import { isCount, isFlag, isText, objectOf, orNull } from "../table/data-shape.ts";
import type { Workspace } from "../workspace/workspace.ts";

export interface Worker extends ProcessMark {
  /** Whether the locks that it took in the workspace are seen from everywhere. */
  readonly sharesLocks: boolean;
}

export type Liveness = "alive" | "gone" | "unknown";

export const isWorker = objectOf({
  pid: isCount,
  started: orNull(isText),
  processes: isText,
  boot: isText,
  machine: isText,
  sharesLocks: isFlag,
});

/** This process, as a worker in the workspace. */
export async function describeWorker({ storage, root }: Workspace): Promise<Worker> {
  const { sharesLocks } = await storage.describeFileSystem(root);
  return { ...storage.host.process, sharesLocks };
}

/** Of one whose lock is free. Null: it is not known, and then the lock is all that there is. */
export async function findLiveness({ storage, root }: Workspace, worker: Worker | null): Promise<Liveness> {
  if (worker === null) return "gone";
  const life = storage.host.lifeOf(worker);
  if (life === "alive") return "alive";
  // This process has the lock, or could have it: it does not work on it by another way.
  if (life === "gone" || life === "self") return "gone";
  const isShared = worker.sharesLocks && (await storage.describeFileSystem(root)).sharesLocks;
  return isShared ? "gone" : "unknown";
}

/** `pid 4711 of another machine`; `pid 12 in a container`: whom to look for, and where. */
export function sayWorker({ storage }: Workspace, { pid, boot, processes }: Worker): string {
  const here = storage.host.process;
  if (boot !== here.boot) return `pid ${pid} of another machine`;
  return processes === here.processes ? `pid ${pid}` : `pid ${pid} of another container`;
}
