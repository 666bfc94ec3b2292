// The fixtures are what they are said to be, and each opens or is refused as its manifest says.
//
// Every chain is opened through a storage that notes what it opens: an image must not lead to a file that the
// gate does not trust, whatever becomes of it afterwards.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EXIT_OF_CODE } from "../src/errors/index.ts";
import type { Chain, GateOptions, ImageFormat } from "../src/format/index.ts";
import { CHAIN_DEPTH_MAX, openChain } from "../src/format/index.ts";
import { makeNodeStorage, type Storage } from "../src/storage/index.ts";
import { startEffort } from "./helpers/effort.ts";
import { errorFrom } from "./helpers/expect-error.ts";
import type { Fixture } from "./helpers/fixtures.ts";
import {
  FIXTURES,
  FIXTURES_FOLDER,
  findFixture,
  setBackingName,
  unpackAllFixtures,
  unpackFixture,
} from "./helpers/fixtures.ts";
import { oracle } from "./helpers/oracles.ts";

const STORED_BYTES_MAX = 4 * 1024 * 1024;
const OPEN_MS_MAX = 2000;

let root: string;

beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), "imgtx-fixtures-test-"));
  await unpackAllFixtures(root);
});

afterAll(async () => {
  await rm(root, { recursive: true, force: true });
});

describe("the folder", () => {
  test("holds the images of the manifest, the manifest and the README, and nothing else", async () => {
    const entries = await readdir(FIXTURES_FOLDER, { recursive: true, withFileTypes: true });
    const files = entries
      .filter((entry) => entry.isFile())
      .map((entry) => path.relative(FIXTURES_FOLDER, path.join(entry.parentPath, entry.name)));
    const named = FIXTURES.map(({ name }) => `${name}.gz`);
    expect(new Set(files)).toEqual(new Set([...named, "manifest.json", "README.md"]));
    expect(named.length).toBeGreaterThan(150);
  });

  test("stays small", async () => {
    const sizes = FIXTURES.map(({ name }) => stat(path.join(FIXTURES_FOLDER, `${name}.gz`)));
    const total = (await Promise.all(sizes)).reduce((sum, { size }) => sum + size, 0);
    expect(total).toBeLessThan(STORED_BYTES_MAX);
  });

  test("the README tells of every image its recipe, its hashes, what it shows and when it is refused", async () => {
    const readme = await readFile(path.join(FIXTURES_FOLDER, "README.md"), "utf8");
    const sections = new Map(
      readme
        .split(/^## /m)
        .slice(1)
        .map((section) => [section.split("\n", 1)[0], section]),
    );
    expect([...sections.keys()]).toEqual(FIXTURES.map(({ name }) => name));
    const missing = FIXTURES.flatMap((fixture) =>
      factsOf(fixture)
        .filter((fact) => !sections.get(fixture.name)?.includes(fact))
        .map((fact) => `${fixture.name}: ${fact}`),
    );
    expect(missing).toEqual([]);
  });

  test("every image unpacks to the size and hash of the manifest", async () => {
    const wrong: string[] = [];
    for (const { name, sizeBytes, sha256 } of FIXTURES) {
      const content = await readFile(path.join(root, name));
      if (content.length !== sizeBytes || hashOf(content) !== sha256) wrong.push(name);
    }
    expect(wrong).toEqual([]);
  });

  test("images unpack sparsely", async () => {
    const { size, blocks } = await stat(path.join(root, "cluster-2m.qcow2"));
    expect(blocks * 512).toBeLessThan(size / 4);
    expect((await stat(path.join(root, "holes.raw"))).blocks * 512).toBe(4096 + 65_536);
  });

  test("the manifest names codes that exist, and fixtures that exist", () => {
    for (const { refusal, needs } of FIXTURES) {
      if (refusal) expect(Object.keys(EXIT_OF_CODE)).toContain(refusal.code);
      for (const need of needs) expect(findFixture(need).name).toBe(need);
    }
  });

  test("a fixture comes with what it needs, and with nothing else", async () => {
    const image = await unpackFixture("over-over.qcow2");
    const names = await readdir(path.dirname(image));
    expect(names.sort((a, b) => a.localeCompare(b))).toEqual([
      "base.qcow2",
      "over-mixed.qcow2",
      "over-over.qcow2",
    ]);
  });
});

function factsOf({ shows, madeBy, sha256, guest, refusal, note }: Fixture): string[] {
  const facts = [shows, madeBy, `sha256 ${sha256}`];
  if (guest) facts.push(`guest: ${guest.sizeBytes} bytes, sha256 ${guest.sha256}`);
  if (refusal) facts.push(`refused: ${refusal.when}, ${refusal.code}`);
  if (note) facts.push(note);
  return facts;
}

describe("opening", () => {
  const refused = FIXTURES.filter(({ refusal }) => refusal?.when === "open");
  const opened = FIXTURES.filter(({ refusal }) => refusal?.when !== "open");

  test.each(opened)("$name opens: $shows", async (fixture) => {
    await using opening = await openFixture(fixture);
    const [active] = opening.chain.links;
    expect(active?.format).toBe(fixture.format ?? "qcow2");
    if (fixture.guest) expect(active?.virtualSizeBytes).toBe(fixture.guest.sizeBytes);
    const damaged = active?.header?.isDirty === true || active?.header?.isCorrupt === true;
    expect(damaged).toBe(fixture.refusal?.when === "write");
    expect(hashOf(await readFile(path.join(root, fixture.name)))).toBe(fixture.sha256);
  });

  test.each(refused)("$name is refused with $refusal.code: $shows", async (fixture) => {
    const watched = watchStorage();
    const effort = startEffort();
    const error = await errorFrom(openFixture(fixture, {}, watched));
    expect(effort()).toBeLessThan(OPEN_MS_MAX);
    expect(`${error.code}: ${error.message}`).toMatch(new RegExp(`^${fixture.refusal?.code}: `));
    expect(error.image).toBeDefined();
    expect(`${error.message}${error.hint ?? ""}`).not.toMatch(CONTROL_CHARACTER);
    expect(watched.openCount()).toBe(0);
    expect(hashOf(await readFile(path.join(root, fixture.name)))).toBe(fixture.sha256);
  });

  test("no image leads to a raw image or a data file that the gate does not trust, not even to open it", async () => {
    const outside = FIXTURES.filter(({ refusal }) => refusal?.code === "E_OUTSIDE");
    expect(outside.length).toBeGreaterThan(5);
    for (const fixture of outside) {
      const watched = watchStorage();
      await errorFrom(openFixture(fixture, {}, watched));
      expect(watched.opened.filter((file) => !file.startsWith(`${root}/`))).toEqual([]);
    }
  });

  test("an unknown incompatible bit is called by the name that the image gives it, or by its number", async () => {
    const named = await errorFrom(openFixture(findFixture("corrupt/bit-unknown-named.qcow2")));
    expect(named.message).toContain("time travel");
    const nameless = await errorFrom(openFixture(findFixture("corrupt/bit-unknown-nameless.qcow2")));
    expect(nameless.message).toContain("63");
  });

  test("a raw image with a foreign magic is opened as it was said to be, with a warning", async () => {
    for (const name of ["qcow2-inside.raw", "corrupt/foreign-as-raw.vdi", "over-qcow2-inside.qcow2"]) {
      await using opening = await openFixture(findFixture(name));
      const base = opening.chain.links.at(-1);
      expect(base?.format).toBe("raw");
      expect(base?.warnings).toMatchObject([
        { code: "used as raw", looksLike: /vdi/.test(name) ? "vdi" : "qcow2" },
      ]);
    }
  });

  test("an image without a stated backing format opens over qcow2, with a warning", async () => {
    await using opening = await openFixture(findFixture("over-no-format.qcow2"));
    expect(opening.chain.links).toHaveLength(2);
    expect(opening.chain.links.flatMap(({ warnings }) => warnings)).toHaveLength(1);
  });

  test("a chain is opened down to its base", async () => {
    await using opening = await openFixture(findFixture("over-over.qcow2"));
    expect(opening.chain.links.map((link) => path.basename(link.path))).toEqual([
      "over-over.qcow2",
      "over-mixed.qcow2",
      "base.qcow2",
    ]);
  });
});

describe("the gate", () => {
  test("a raw base above the overlay's folder is refused without a workspace, and let in by an allowed path", async () => {
    const fixture = findFixture("nested/up.qcow2");
    const error = await errorFrom(openFixture(fixture, { workspaceRoot: undefined }));
    expect(error.code).toBe("E_OUTSIDE");
    expect(error.hint).toContain("--allow-path");
    const gates: Partial<GateOptions>[] = [
      { workspaceRoot: root },
      { workspaceRoot: undefined, allowPaths: [root] },
      { workspaceRoot: undefined, allowPaths: [path.join(root, "base.raw")] },
    ];
    for (const gate of gates) {
      await using opening = await openFixture(fixture, gate);
      expect(opening.chain.links).toHaveLength(2);
    }
  });

  test("an allowed path trusts what is below it, and not a neighbour whose name begins alike", async () => {
    const fixture = findFixture("nested/up.qcow2");
    const error = await errorFrom(
      openFixture(fixture, { workspaceRoot: undefined, allowPaths: [path.join(root, "base")] }),
    );
    expect(error.code).toBe("E_OUTSIDE");
  });

  test("a symbolic link in the image's folder does not lead a raw base or a data file outside", async () => {
    const outside = path.join(await makeFolder("outside"), "secret.raw");
    await writeFile(outside, "secret");
    const folder = await makeFolder("linked");
    await symlink(outside, path.join(folder, "base.raw"));
    await symlink(outside, path.join(folder, "data-file.bin"));
    for (const name of ["over-raw.qcow2", "data-file.qcow2"]) {
      await unpackFixture(name, folder);
      const error = await errorFrom(openAt(path.join(folder, name), "qcow2", folder));
      expect(error.code).toBe("E_OUTSIDE");
    }
  });

  test("a FIFO as a backing image is refused, and not waited for", async () => {
    const folder = await makeFolder("fifo");
    execFileSync("mkfifo", [path.join(folder, "base.qcow2"), path.join(folder, "base.raw")]);
    for (const name of ["over-raw.qcow2", "over-qcow2.qcow2"]) {
      const error = await errorFrom(openAt(await unpackFixture(name, folder), "qcow2", folder));
      expect(error.code).toBe("E_NOT_A_FILE");
    }
  });

  test("an absolute backing name is followed", async () => {
    const folder = await makeFolder("absolute");
    const image = await unpackFixture("over-absolute.qcow2", folder);
    const base = await unpackFixture("base.qcow2", await makeFolder("elsewhere"));
    await setBackingName(image, base);
    const chain = await openAt(image, "qcow2", folder);
    expect(chain.links.map((link) => link.path)).toEqual([image, base]);
    await chain.close();
  });

  test("a chain as deep as allowed opens, and one image more is refused", async () => {
    const folder = await makeFolder("deep");
    const base = await unpackFixture("over-absolute.qcow2", folder);
    await setBackingName(base, "unwritten.qcow2");
    await unpackFixture("unwritten.qcow2", folder);
    const overlay = await readFile(base);
    const images = [path.join(folder, "unwritten.qcow2"), base];
    while (images.length <= CHAIN_DEPTH_MAX) {
      const image = path.join(folder, `layer-${images.length}.qcow2`);
      await writeFile(image, overlay);
      await setBackingName(image, path.basename(images.at(-1) ?? ""));
      images.push(image);
    }
    const deepest = await openAt(images[CHAIN_DEPTH_MAX - 1] ?? "", "qcow2", folder);
    expect(deepest.links).toHaveLength(CHAIN_DEPTH_MAX);
    await deepest.close();
    const error = await errorFrom(openAt(images[CHAIN_DEPTH_MAX] ?? "", "qcow2", folder));
    expect(error.code).toBe("E_LOOP");
    expect(error.message).toContain(String(CHAIN_DEPTH_MAX));
  });
});

describe("QEMU's judgement", () => {
  const qemu = oracle("qemu-img");

  qemu.test("the guest content of every sound image is what the manifest says", async () => {
    const wrong: string[] = [];
    const content = path.join(root, "guest-content");
    for (const { name, format, guest } of FIXTURES) {
      if (guest === null) continue;
      const source = `driver=${format},file.driver=file,file.filename=./${path.basename(name)}`;
      // QEMU looks for a data file in its current folder. -U: a lock of another test is no concern of this one.
      const cwd = path.join(root, path.dirname(name));
      execFileSync("qemu-img", ["convert", "-U", "--image-opts", "-O", "raw", source, content], { cwd });
      const bytes = await readFile(content);
      if (bytes.length !== guest.sizeBytes || hashOf(bytes) !== guest.sha256) wrong.push(name);
      await rm(content);
    }
    expect(wrong).toEqual([]);
  });
});

// oxlint-disable-next-line no-control-regex -- control characters are what must not be there
const CONTROL_CHARACTER = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/;

interface WatchedStorage {
  readonly storage: Storage;
  /** Paths that were opened, as they were asked for. */
  readonly opened: readonly string[];
  /** Files that are open now. */
  openCount(): number;
}

/** The real storage, with a note of what is opened and closed. */
function watchStorage(): WatchedStorage {
  const real = makeNodeStorage();
  const opened: string[] = [];
  const open = new Set<object>();
  const openFile: Storage["openFile"] = async (file, access, options) => {
    opened.push(file);
    const handle = await real.openFile(file, access, options);
    open.add(handle);
    const close = handle.close.bind(handle);
    handle.close = async () => {
      open.delete(handle);
      await close();
    };
    return handle;
  };
  const storage = new Proxy(real, {
    get: (target, key) => (key === "openFile" ? openFile : bindTo(target, Reflect.get(target, key))),
  });
  return { storage, opened, openCount: () => open.size };
}

function bindTo(target: object, value: unknown): unknown {
  return typeof value === "function" ? value.bind(target) : value;
}

/** Opens a fixture in the common folder, which is the workspace; data files count from the image's own. */
async function openFixture(
  { name, format }: Fixture,
  gate: Partial<GateOptions> = {},
  watched: WatchedStorage = watchStorage(),
): Promise<{ chain: Chain; [Symbol.asyncDispose](): Promise<void> }> {
  const image = path.join(root, name);
  const chain = await openChain(watched.storage, image, {
    format: format ?? undefined,
    gate: { workspaceRoot: root, allowPaths: [], currentFolder: path.dirname(image), ...gate },
  });
  return { chain, [Symbol.asyncDispose]: () => chain.close() };
}

async function openAt(image: string, format: ImageFormat, currentFolder: string): Promise<Chain> {
  const gate: GateOptions = { workspaceRoot: undefined, allowPaths: [], currentFolder };
  return openChain(watchStorage().storage, image, { format, gate });
}

async function makeFolder(name: string): Promise<string> {
  const folder = path.join(root, "made-by-tests", name);
  await mkdir(folder, { recursive: true });
  return folder;
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
