// Who has which file open, and the leases that keep others from opening it for writing. Both belong to open
// descriptions, and go with their process.

import type { LeaseAnswer, LeaseBeside } from "../../../src/storage/index.ts";
import type { LockOwner } from "./simulated-disk.ts";

interface HeldLease {
  readonly inode: number;
  isWanted: boolean;
}

export class SimulatedLeases {
  readonly #open = new Map<LockOwner, { readonly inode: number; readonly access: "read" | "write" }>();
  readonly #leases = new Map<LockOwner, HeldLease>();

  opened(file: LockOwner, inode: number, access: "read" | "write"): void {
    this.#open.set(file, { inode, access });
  }

  closed(file: LockOwner): void {
    this.#open.delete(file);
    this.#leases.delete(file);
  }

  died(process: object): void {
    for (const file of [...this.#open.keys(), ...this.#leases.keys()]) {
      if (file.process === process) this.closed(file);
    }
  }

  take(file: LockOwner, inode: number, beside: LeaseBeside = "readers"): LeaseAnswer {
    const inTheWay = [...this.#open].some(
      ([other, open]) =>
        open.inode === inode && (open.access === "write" || (beside === "nobody" && other !== file)),
    );
    if (inTheWay && beside === "nobody") this.drop(file);
    if (inTheWay) return "writers";
    this.#leases.set(file, { inode, isWanted: false });
    return "held";
  }

  drop(file: LockOwner): void {
    this.#leases.delete(file);
  }

  isWanted(file: LockOwner): boolean {
    return this.#leases.get(file)?.isWanted ?? false;
  }

  /** Whether a process that opens the file for writing has to wait; who holds the lease knows of it then. */
  mustWait(process: object, inode: number): boolean {
    const inTheWay = [...this.#leases].filter(([, lease]) => lease.inode === inode);
    for (const [, lease] of inTheWay) lease.isWanted = true;
    if (inTheWay.some(([file]) => file.process === process)) {
      throw new Error("a process opens for writing what it holds a lease on: it would wait for itself");
    }
    return inTheWay.length > 0;
  }
}
