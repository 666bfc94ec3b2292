// Where the output of imgtx goes to files, they are not flushed as it ends: koffi would, and wait for ever where that fails.

import { spawnSync } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { PROGRAM, wordsToStart } from "../../helpers/program.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const strace = oracle("strace");

strace.test(
  "files that the outputs go to are written, not flushed, and no failing disk of theirs is waited for",
  () => {
    const folder = makeFolder();
    const [out, err] = [`${folder}/out`, `${folder}/err`];
    const outputs = [openSync(out, "w"), openSync(err, "w")];
    const words = ["-f", "-o", `${folder}/trace`, "-P", out, "-P", err, "-e", "trace=write,fsync"];
    // A flush is seen in the trace, and not waited for.
    const inject = ["-e", "inject=fsync:error=EINVAL"];
    const command = [...wordsToStart(PROGRAM), "init"];
    const { status } = spawnSync("strace", [...words, ...inject, ...command], {
      cwd: folder,
      stdio: ["ignore", ...outputs],
    });
    for (const output of outputs) closeSync(output);
    const trace = readFileSync(`${folder}/trace`, "utf8");
    expect([status, readFileSync(out, "utf8"), readFileSync(err, "utf8")]).toEqual([
      0,
      `Made a workspace in ${folder}\n`,
      "",
    ]);
    expect(trace).toContain("write(1");
    expect(trace).not.toContain("fsync(");
  },
);
