// Runs the crash rigs and the fuzzers at full length:
// `npm run torture [-- simulated|process|power|walk|model|hostile|differential|staged|all] [--seed N] [--seconds N] [--cases N]
// [--only TEXT]`.

import { torture } from "../crash/torture.ts";

process.exitCode = await torture(process.argv.slice(2));
