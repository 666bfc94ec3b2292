// A lease on one open file, which shows whether anybody has the file open for writing, locks or no locks.
//
// QEMU opens an image first and locks it a moment later: in between it is seen by this alone. So is what writes
// without QEMU's locks: locking=off, a loop device, cp.
//
// Tried on ext4, XFS, Btrfs, tmpfs, overlayfs and FUSE. The signal for a lease that is being broken is SIGURG,
// which does nothing by default: the usual SIGIO would end the process. On FUSE the lease is that of the mount: who
// opens the file by its other path below it is not seen.
//
// Whether anybody has the file open at all is told by a lease for writing, which the kernel gives to who is alone with
// the file (Linux counts who reads it since 5.3; earlier ones refuse where they can't tell). It becomes one for reading
// at once, so that nobody who reads the file has to wait. On overlayfs a mapping whose descriptor was closed is not seen.

import type { LeaseAnswer, LeaseBeside } from "../storage.ts";
import type { SystemCalls } from "../native/system-calls.ts";
import { errnoName } from "../system-error.ts";

// <fcntl.h>; the same numbers on every supported architecture.
const F_SETSIG = 10;
const F_SETLEASE = 1024;
const F_GETLEASE = 1025;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const SIGURG = 23;

/** Not the owner's, no leases there (NFS, a file system that says no, fs.leases-enable), or no room for one. */
const UNAVAILABLE: ReadonlySet<string> = new Set([
  "EACCES",
  "EPERM",
  "EINVAL",
  "ENOSYS",
  "ENOTSUP",
  "ENOLCK",
  "ENOMEM",
]);

export class FileLease {
  #held: { readonly native: SystemCalls; readonly descriptor: number } | undefined;

  take(native: SystemCalls | undefined, descriptor: number, beside: LeaseBeside = "readers"): LeaseAnswer {
    if (native === undefined) return "unavailable";
    try {
      // First: a lease may be broken as soon as it is there.
      native.control(descriptor, F_SETSIG, SIGURG);
      if (beside === "nobody") {
        native.control(descriptor, F_SETLEASE, F_WRLCK);
        this.#held = { native, descriptor };
      }
      native.control(descriptor, F_SETLEASE, F_RDLCK);
    } catch (error) {
      // Where somebody came to write just as it was to become one for reading, it goes again.
      if (beside === "nobody") this.drop();
      const name = errnoName(error) ?? "";
      if (name === "EAGAIN") return "writers";
      if (UNAVAILABLE.has(name)) return "unavailable";
      throw error;
    }
    this.#held = { native, descriptor };
    return "held";
  }

  isWanted(): boolean {
    return this.#held?.native.control(this.#held.descriptor, F_GETLEASE, 0) === F_UNLCK;
  }

  drop(): void {
    const held = this.#held;
    this.#held = undefined;
    try {
      held?.native.control(held.descriptor, F_SETLEASE, F_UNLCK);
    } catch (error) {
      // The kernel has taken it away, since somebody waited for too long.
      if (errnoName(error) !== "EAGAIN") throw error;
    }
  }
}
