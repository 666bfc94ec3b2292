// A qcow2 image of a chain that is open: a link that has a header.

import type { ChainLink } from "./backing-chain.ts";
import type { Qcow2Header } from "./qcow2/header-cluster.ts";

export type Qcow2Link = ChainLink & { readonly header: Qcow2Header };

/** An L1 table of it: the active one, or that of an internal snapshot. */
export interface L1Table {
  readonly fileOffset: number;
  readonly entries: number;
}
