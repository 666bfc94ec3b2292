// What a wait shows on a terminal, and where it shows a plain line instead.

import { Writable } from "node:stream";
import { expect, test } from "vitest";
import { startSpinner } from "../../../../src/cli/render/progress/spinner.ts";

const HANGS_MS = 600_000;

function makeTerminal(columns: number, env: Record<string, string> = {}) {
  let drawn = "";
  const stream = Object.assign(
    new Writable({
      write(chunk, _encoding, done) {
        drawn += String(chunk);
        done();
      },
    }),
    {
      isTTY: true,
      columns,
      cursorTo: () => true,
      clearLine: () => true,
      moveCursor: () => true,
      getWindowSize: () => [columns, 24],
    },
  );
  const stderr = {
    write: (text: string) => {
      drawn += `line: ${text}`;
    },
    isTTY: true,
    columns,
    stream: stream as unknown as NodeJS.WriteStream,
  };
  return { context: { stderr, env: { TERM: "xterm", ...env } }, drawn: () => drawn };
}

async function pause(milliseconds: number): Promise<void> {
  await new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}

test("a wait that is over soon shows nothing", async () => {
  const { context, drawn } = makeTerminal(80);
  const spinner = startSpinner("imgtx: waiting: x", context);
  spinner.stop();
  await pause(400);
  expect(drawn()).toBe("");
});

test("a longer one is drawn, and taken away at its end", async () => {
  const { context, drawn } = makeTerminal(80);
  const spinner = startSpinner("imgtx: waiting: x", context);
  await expect.poll(drawn, { timeout: HANGS_MS }).toContain("imgtx: waiting: x");
  spinner.stop();
  const atEnd = drawn();
  await pause(300);
  expect(drawn()).toBe(atEnd);
});

test("stdin is left alone: Ctrl-C still comes as a signal", async () => {
  const before = process.stdin.listenerCount("data");
  const { context, drawn } = makeTerminal(80);
  const spinner = startSpinner("imgtx: waiting: x", context);
  await expect.poll(drawn, { timeout: HANGS_MS }).toContain("x");
  expect(process.stdin.listenerCount("data")).toBe(before);
  expect(process.stdin.isRaw ?? false).toBe(false);
  spinner.stop();
});

test.each([
  ["a terminal of width 0", 0, {}],
  ["CI", 80, { CI: "1" }],
  ["a dumb terminal", 80, { TERM: "dumb" }],
])("%s gets a plain line", async (_where, columns, env) => {
  const { context, drawn } = makeTerminal(columns, env);
  const spinner = startSpinner("imgtx: waiting: x", context);
  spinner.stop();
  await pause(350);
  expect(drawn()).toBe("line: imgtx: waiting: x\n");
});
