// What every Storage must do, the real disk and the simulated one alike. The engine is built on nothing
// that is not claimed here.

import { describe } from "vitest";
import { describeContent } from "./conformance/content.ts";
import { describeFolders } from "./conformance/folders.ts";
import { describeSparseFiles } from "./conformance/holes.ts";
import { describeHost } from "./conformance/host.ts";
import { describeLeases } from "./conformance/leases.ts";
import { describeLocks } from "./conformance/locks.ts";
import { describeNames } from "./conformance/names.ts";
import { describeStats } from "./conformance/stats.ts";
import type { MakeStorage } from "./conformance/subject.ts";

export {
  type MakeStorage,
  pattern,
  readAll,
} from "./conformance/subject.ts";

export function describeStorage(name: string, makeStorage: MakeStorage): void {
  describe(name, () => {
    describeContent(makeStorage);
    describeSparseFiles(makeStorage);
    describeNames(makeStorage);
    describeFolders(makeStorage);
    describeStats(makeStorage);
    describeLocks(makeStorage);
    describeLeases(makeStorage);
    describeHost(makeStorage);
  });
}
