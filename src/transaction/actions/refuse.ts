// refuse: always refuses, in its second half. QEMU's transaction has `abort` for the same purpose: to test
// that what came before is undone.

import { ImgtxError } from "../../errors/index.ts";
import { PRIVATE } from "../images/access.ts";
import type { Action } from "./plan/action.ts";
import type { RefuseRequest } from "../requests/request.ts";

export const refuse: Action<RefuseRequest> = {
  saying: { noun: "refusal", done: "refused", planned: "would be refused" },
  plan({ device }, context) {
    return Promise.resolve({
      devices: device === undefined ? [] : [device],
      reports: [
        {
          kind: "refuse",
          device: device ?? null,
          before: null,
          after: null,
          format: null,
          files: [],
          notes: [],
        },
      ],
      changes: [],
      allowPaths: [],
      // The file makes the engine enter prepare; it never gets this name.
      filesToMake: [{ ...PRIVATE, path: `${context.root}/.imgtx/refused`, hasHeader: false }],
      fillFiles: () =>
        Promise.reject(
          new ImgtxError(
            "E_REFUSED",
            "refused, as the action 'refuse' asks",
            device === undefined ? {} : { device },
          ),
        ),
      chains: [],
    });
  },
};
