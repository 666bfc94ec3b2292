// A C library that is older than some calls: they are made by their numbers, and do the same.

import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { loadForeign } from "../../../src/storage/native/foreign.ts";
import type { NativeLibrary } from "../../../src/storage/native/foreign-library.ts";
import { bindCall } from "../../../src/storage/native/numbered-calls.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const libc = loadForeign().load(null);
const older: NativeLibrary = {
  func(prototype) {
    if (!prototype.includes(" syscall(")) throw new Error(`no ${prototype}`);
    return libc.func(prototype);
  },
};
const AT_FDCWD = -100;

test("renameat2 moves to a free name, and replaces nothing", () => {
  const folder = makeFolder();
  for (const name of ["a", "b"]) writeFileSync(`${folder}/${name}`, name);
  const rename = bindCall(
    older,
    "int renameat2(int fromFolder, str from, int toFolder, str to, unsigned int flags)",
  );
  const move = (target: string) =>
    Number(rename(AT_FDCWD, `${folder}/a`, AT_FDCWD, `${folder}/${target}`, 1));
  expect(move("b")).toBe(-1);
  expect(loadForeign().errno()).toBe(17);
  expect(move("c")).toBe(0);
  expect(existsSync(`${folder}/a`)).toBe(false);
  expect(["b", "c"].map((name) => readFileSync(`${folder}/${name}`, "utf8"))).toEqual(["b", "a"]);
});

test("statx tells what the function tells", () => {
  const prototype = "int statx(int folder, str path, int flags, unsigned int mask, void *into)";
  const answers = [older, libc].map((library) => {
    const into = new Uint8Array(256);
    expect(Number(bindCall(library, prototype)(AT_FDCWD, "/", 0, 0x100, into))).toBe(0);
    return into;
  });
  expect(answers[0]).toEqual(answers[1]);
});

test("copy_file_range copies, on another thread too", async () => {
  const folder = makeFolder();
  writeFileSync(`${folder}/source`, "some content");
  writeFileSync(`${folder}/target`, "");
  const [source, target] = [openSync(`${folder}/source`, "r"), openSync(`${folder}/target`, "r+")];
  const copy = bindCall(
    older,
    "int64_t copy_file_range(int from, void *fromOffset, int to, void *toOffset, size_t length, unsigned int flags)",
  );
  const count = await new Promise((resolve) => {
    const [from, to] = [BigInt64Array.of(5n), BigInt64Array.of(0n)];
    copy.async(source, from, target, to, 7, 0, (_error, result) => {
      resolve(Number(result));
    });
  });
  for (const descriptor of [source, target]) closeSync(descriptor);
  expect(count).toBe(7);
  expect(readFileSync(`${folder}/target`, "utf8")).toBe("content");
});

test("what has no number here is missing, as it was", () => {
  expect(() => bindCall(older, "int getsid(int pid)")).toThrow("no int getsid");
});
