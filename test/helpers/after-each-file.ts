// Runs with each test file. A process runs many, and loads the helpers once: a hook of theirs would be the first file's alone.

import { afterAll } from "vitest";
import { endFile } from "./temporary-folder.ts";

afterAll(endFile);
