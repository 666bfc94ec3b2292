// Requests that go back: to a snapshot, or by what commits did.

export interface RollbackRequest {
  readonly kind: "rollback";
  /** None: all that the snapshot keeps. */
  readonly devices: readonly string[];
  /** A snapshot's name or number, or a time. Undefined: the newest snapshot of the devices. */
  readonly to: string | undefined;
  /** Whether what was active goes, instead of being kept as a snapshot of its own. */
  readonly isDiscarding: boolean;
  /** Absolute: the folder that gets the files which the snapshot keeps beside. */
  readonly filesTo?: string | undefined;
  /** Whether those may be written over files that are there. Default: no. */
  readonly overwrites?: boolean;
}

export interface UndoRequest {
  readonly kind: "undo" | "redo";
  /** Whether it is a redo. */
  readonly isForward: boolean;
  /** Leave behind what guests wrote since, and go to images of which nobody can tell that they are what they were. */
  readonly force: boolean;
}
