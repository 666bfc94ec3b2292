// The dry run of a command that is no action.

import type { Drawing } from "../running/report.ts";
import { withSchema } from "../render/json.ts";

export interface Would {
  readonly saying: string;
  readonly transaction: string | null;
}

export const WOULD: Drawing<Would> = {
  text: ({ saying }) => [`Dry run: ${saying}.`],
  json: ({ transaction }) => withSchema({ changed: false, "dry-run": true, transaction }),
};
