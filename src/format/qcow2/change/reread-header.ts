// An image between two changes of one statement: the first may have moved its tables.

import type { StorageFile } from "../../../storage/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { readOwnHeader } from "../../read-header.ts";

/** The link with what its header says now, in this file of it. */
export async function rereadHeader(link: Qcow2Link, file: StorageFile): Promise<Qcow2Link> {
  return { ...link, file, header: await readOwnHeader(file, link.path), stat: await file.stat() };
}
