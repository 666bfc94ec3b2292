// What the readers of qcow2 images share: a link of a chain that has a header, and what they say of damage.

import type { ChainLink } from "./backing-chain.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";

export type Qcow2Link = ChainLink & { readonly header: Qcow2Header };

/** An L1 table of it: the active one, or that of an internal snapshot. */
export interface L1Table {
  readonly fileOffset: number;
  readonly entries: number;
}

/** What to do about a table that is damaged. */
export const DAMAGE_HINT = "`imgtx img check` says what else is damaged; restore the image from a copy";
