// The table as other transactions will leave it, whose commit mark is written and whose devices have not moved yet.

import { type DeviceTable, withDevices } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { changesOf, type JournalSnapshot } from "../journal/index.ts";

/**
 * The table with what others have committed and not moved yet: it will come, whatever happens. The devices of those
 * transactions are held, so that nobody plans on them; but what their images are must not be taken for free. The
 * journals are those of others.
 */
export function withCommitted(table: DeviceTable, journals: readonly JournalSnapshot[]): DeviceTable {
  return journals.reduce(
    (sum, { state }) =>
      state instanceof ImgtxError || !state.commit ? sum : withDevices(sum, changesOf(state)),
    table,
  );
}
