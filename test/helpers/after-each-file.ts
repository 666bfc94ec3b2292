// Runs with each test file. A process runs many, and loads the helpers once: a hook of theirs would be the first file's alone.

import { afterAll } from "vitest";
import { compareBytesAtOnce } from "./equal-bytes.ts";
import { startLightly } from "./light-start.ts";
import { endFile } from "./temporary-folder.ts";

startLightly();
compareBytesAtOnce();
afterAll(endFile);
