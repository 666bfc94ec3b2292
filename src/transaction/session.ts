// The transaction layer's face for the command line. (Signatures first; the engine fills them in.)
import type { Storage } from "../storage/index.ts";
import type { RecoveryNote } from "./request.ts";

export interface Session {
  readonly storage: Storage;
  /** Absolute path of the workspace folder. */
  readonly root: string;
  readonly recovered: readonly RecoveryNote[];
}
