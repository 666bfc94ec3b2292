// What the registry has for each action, so that a new one can't be without: one, two and five devices at once, and every
// layout of an image. Both rigs run all of it in `npm run torture`.

import { describe, expect, test } from "vitest";
import type { ActionKind } from "../../../src/transaction/requests/request.ts";
import { type Covered, coverageOf, LAYOUT_NAMES, type LayoutName } from "./coverage.ts";
import { LAYOUT_SCENARIOS } from "./layout-scenarios.ts";
import { SCENARIOS } from "./scenarios.ts";

interface Lacking {
  /** Layouts that it refuses, and so changes nothing of. */
  readonly refuses?: readonly LayoutName[];
  /** It is of no use in a scenario. */
  readonly isNone?: true;
}

/** A row an action: the compiler asks for one of a new action. */
const ACTIONS: Readonly<Record<ActionKind, Lacking>> = {
  snapshot: {},
  "snapshot-group": {},
  reopen: {},
  "device-add": {},
  "device-remove": {},
  "device-rename": {},
  "device-trust": {},
  "device-provision": {},
  relocate: {},
  rollback: {},
  "snapshot-delete": {},
  undo: {},
  redo: {},
  freeze: {},
  unfreeze: {},
  resize: {},
  merge: {},
  pull: {},
  rebase: {},
  "internal-snapshot-create": { refuses: ["data file"] },
  "internal-snapshot-apply": { refuses: ["data file"] },
  "internal-snapshot-delete": { refuses: ["data file"] },
  "bitmap-add": { refuses: ["version 2"] },
  "bitmap-remove": { refuses: ["version 2"] },
  "bitmap-clear": { refuses: ["version 2"] },
  "bitmap-enable": { refuses: ["version 2"] },
  "bitmap-disable": { refuses: ["version 2"] },
  "bitmap-merge": { refuses: ["version 2"] },
  amend: {},
  repair: {},
  "repair-undo": {},
  // It changes nothing: it is there to fail.
  refuse: { isNone: true },
  mirror: {},
  "mirror-cancel": {},
  migrate: {},
};

const covered = coverageOf([...SCENARIOS, ...LAYOUT_SCENARIOS]);

describe("the crash rigs try", () => {
  test.each(Object.entries(ACTIONS).filter(([, { isNone }]) => !isNone))(
    "%s on one, two and five devices, and on every layout",
    (kind, { refuses = [] }) => {
      const { devices, layouts }: Partial<Covered> = covered.get(kind) ?? {};
      expect([...(devices ?? [])]).toEqual(expect.arrayContaining([1, 2, 5]));
      const wanted = LAYOUT_NAMES.filter((name) => !refuses.includes(name));
      expect([...(layouts ?? [])]).toEqual(expect.arrayContaining(wanted));
    },
  );

  test("no action that is not one", () => {
    const commands = ["txn", "init", "img", "migrate"];
    const unknown = [...covered.keys()].filter((kind) => !Object.hasOwn(ACTIONS, kind));
    expect(unknown.filter((kind) => !commands.includes(kind))).toEqual([]);
  });
});
