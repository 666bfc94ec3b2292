// imgtx's image locks against QEMU itself, both ways.

import { describe, expect, onTestFinished } from "vitest";
import { acquireImageLocks, type LockWaiting, makeNodeStorage } from "../../../src/storage/index.ts";
import type { ImageLocks } from "../../../src/storage/locks/qemu-lock.ts";
import type { ImageRole } from "../../../src/storage/locks/qemu-lock.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { run, runWell, startQemuDaemon } from "../../helpers/qemu-programs.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const { test } = oracle("qemu-img", "qemu-io", "qemu-storage-daemon");

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };
const LOCK_ERROR = /Failed to get (shared )?"write" lock/;

interface Images {
  readonly folder: string;
  readonly base: string;
  readonly top: string;
}

function makeChain(): Images {
  const folder = makeFolder();
  const images = { folder, base: `${folder}/base.qcow2`, top: `${folder}/top.qcow2` };
  runWell("qemu-img", "create", "-q", "-f", "qcow2", images.base, "1M");
  runWell("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", images.base);
  runWell("qemu-img", "create", "-q", "-f", "qcow2", "-b", images.base, "-F", "qcow2", images.top);
  return images;
}

async function hold(path: string, role: ImageRole): Promise<ImageLocks> {
  const storage = makeNodeStorage();
  const file = await storage.openFile(path, role === "writer" ? "write" : "read");
  onTestFinished(async () => {
    await file.close();
  });
  return acquireImageLocks(storage, [{ file, role }], NO_WAIT);
}

describe("while a storage daemon writes an image", () => {
  test.for([
    ["writer", 'Failed to get "write" lock'],
    ["reader", 'Failed to get shared "write" lock'],
  ] as const)("imgtx's %s is refused on it, and the daemon is named", async ([role, words]) => {
    const { folder, top } = makeChain();
    const daemon = await startQemuDaemon(top, folder, true);
    onTestFinished(daemon.stop);
    const failure = await failureOf(() => hold(top, role));
    expect(failure).toMatchObject({ code: "E_LOCKED", exitCode: 10, image: top });
    expect(failure.message).toContain(words);
    expect(failure.message).toContain(`pid ${daemon.pid} (qemu-storage-daemon)`);
    expect(failure.hint).not.toContain("-U");
  });

  test("its backing image may be read, and not written", async () => {
    const { folder, base, top } = makeChain();
    const daemon = await startQemuDaemon(top, folder, true);
    onTestFinished(daemon.stop);
    (await hold(base, "reader")).release();
    const failure = await failureOf(() => hold(base, "writer"));
    expect(failure.message).toContain('Failed to get "write" lock');
    expect(failure.message).toContain(`pid ${daemon.pid} `);
  });

  test("a wait ends when the daemon does", async () => {
    const { folder, top } = makeChain();
    const daemon = await startQemuDaemon(top, folder, true);
    const storage = makeNodeStorage();
    const file = await storage.openFile(top, "write");
    const announced: string[] = [];
    const onWait = (what: string): void => {
      announced.push(what);
      void daemon.stop();
    };
    const waiting = { waitMs: Number.POSITIVE_INFINITY, onWait };
    (await acquireImageLocks(storage, [{ file, role: "writer" }], waiting)).release();
    await file.close();
    expect(announced).toEqual([`'${top}', in use by pid ${daemon.pid} (qemu-storage-daemon)`]);
  });
});

describe("while a storage daemon only reads an image", () => {
  test("imgtx's reader is let in, and its writer is refused", async () => {
    const { folder, top } = makeChain();
    const daemon = await startQemuDaemon(top, folder, false);
    onTestFinished(daemon.stop);
    (await hold(top, "reader")).release();
    expect((await failureOf(() => hold(top, "writer"))).message).toContain('Failed to get "write" lock');
  });
});

describe("while imgtx holds a writer's locks", () => {
  test.for([
    ["qemu-img snapshot -c", ["qemu-img", "snapshot", "-c", "s"]],
    ["qemu-img check", ["qemu-img", "check"]],
    ["qemu-img resize", ["qemu-img", "resize", "-f", "qcow2"]],
    ["qemu-io write", ["qemu-io", "-f", "qcow2", "-c", "write 0 64k"]],
    ["qemu-io read", ["qemu-io", "-r", "-f", "qcow2", "-c", "read 0 64k"]],
  ] as const)("%s is refused", async ([name, [program, ...parameters]]) => {
    const { top } = makeChain();
    const locks = await hold(top, "writer");
    const last = name.endsWith("resize") ? [top, "2M"] : [top];
    const refused = run(program, ...parameters, ...last);
    expect(refused.status).toBe(1);
    expect(refused.output).toMatch(LOCK_ERROR);
    locks.release();
    expect(run(program, ...parameters, ...last)).toMatchObject({ status: 0 });
  });
});

describe("while imgtx holds a reader's locks", () => {
  test("qemu-img info, check and convert work", async () => {
    const { folder, top } = makeChain();
    await hold(top, "reader");
    expect(run("qemu-img", "info", top)).toMatchObject({ status: 0 });
    expect(run("qemu-img", "check", top)).toMatchObject({ status: 0 });
    expect(run("qemu-img", "convert", "-O", "raw", top, `${folder}/copy.raw`)).toMatchObject({ status: 0 });
  });

  test("qemu-io may write neither the image nor, as a backing image, what is below it", async () => {
    const { base, top } = makeChain();
    await hold(base, "reader");
    const writing = run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", base);
    expect(writing.status).toBe(1);
    expect(writing.output).toMatch(/Failed to get "write" lock/);
    const merging = run("qemu-img", "commit", top);
    expect(merging.status).toBe(1);
    expect(merging.output).toMatch(/Failed to get "write" lock/);
    expect(run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", top)).toMatchObject({ status: 0 });
  });
});
