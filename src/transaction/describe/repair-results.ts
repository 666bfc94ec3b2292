// What the commands answer that repair a workspace, or let go of what can't be repaired. Plain data.

import type { KeptFile } from "../requests/request.ts";

/** A transaction of a copied workspace that the copy is not to go on with. */
export interface ForgottenTransaction {
  readonly id: string;
  /** Where its journal is kept. */
  readonly journal: string;
  /** What it does, as `snapshot vda`. */
  readonly what: string;
  /** It has a commit mark, and may have been cut off after it. */
  readonly committed: boolean;
  /** Images that it made or changes. All stay as they are. */
  readonly files: readonly string[];
}

export interface Adoption {
  readonly root: string;
  /** False: it is a workspace of its own already. */
  readonly changed: boolean;
  readonly generation: number;
  readonly forgotten: readonly ForgottenTransaction[];
  /** Ids of the transactions that go on. */
  readonly kept: readonly string[];
  readonly devices: readonly {
    readonly device: string;
    readonly image: string;
    readonly format: string;
    /** Images that stand on it, of whoever: the device may have been on one of them since the copy was made. */
    readonly overlays: readonly string[];
  }[];
}

export interface Restoration {
  readonly root: string;
  /** False: the table is sound, and nothing is put back. */
  readonly changed: boolean;
  /** The generation that is present again. */
  readonly generation: number;
  /** Where what stood in the table's place is kept; null: nothing did. */
  readonly kept: string | null;
  /** With the image that the view showed last, where that is another one. */
  readonly devices: readonly {
    readonly device: string;
    readonly image: string;
    readonly format: string;
    readonly shown: string | null;
  }[];
}

/** What imgtx made and nothing needs, in the order in which it goes. */
export interface Garbage {
  readonly found: readonly {
    readonly path: string;
    readonly what: "overlay" | "volume" | "file of a snapshot" | "file of a transaction";
    /** What it takes on the disk. */
    readonly sizeBytes: number;
  }[];
  /** What nothing is known to need, and that stays all the same, and why. */
  readonly stays: readonly KeptFile[];
  /** Whether it was removed. */
  readonly removed: boolean;
}

/** What giving a transaction up leaves. */
export interface GivenUp {
  readonly id: string;
  /** False for a dry run, and where recovery has just ended the transaction by itself. */
  readonly changed: boolean;
  /** Where its journal is kept from then on; null where it has ended by itself, and of a claim. */
  readonly record: string | null;
  /** What it did, as `snapshot vda`, or why its journal can't be read; whose claim it was. Empty: it has ended by itself. */
  readonly what: string;
  /** Devices that are free from then on; null where the journal does not tell them. */
  readonly devices: readonly string[] | null;
  /** Files that stay as they are, and what they are. */
  readonly left: readonly KeptFile[];
  readonly generation: number;
}
