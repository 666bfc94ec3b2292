#!/usr/bin/env -S -u NODE_EXTRA_CA_CERTS IMGTX_CA_CERTS=${NODE_EXTRA_CA_CERTS} node
// The launcher. Node would read the certificates of NODE_EXTRA_CA_CERTS at each start, which takes longer than
// most commands, and imgtx talks to nobody: it is started without, and what it starts gets them back. `--version`
// is answered here, before anything is loaded; that this folder is CommonJS (its package.json says so) and that the
// answer is written straight to the descriptor is for its speed.
// The process is not made to end: it ends by itself, with the exit code that is set, when its output has
// been written.

const { constants, existsSync, fstatSync, readFileSync, statSync, writeSync } = require("node:fs");

const DIST = `${__dirname.slice(0, -"/bin".length)}/dist`;

if (require.main === module) {
  answer({
    program: process.argv[1],
    version: () => JSON.parse(readFileSync(`${__dirname}/../package.json`, "utf8")).version,
    build: () =>
      `Node ${process.versions.node}, commit ${readIfThere(`${DIST}/COMMIT`)?.toString() ?? "unknown"}`,
    load: loadBuilt,
  });
} else {
  // The build, which compiles the bundle in advance, loads it as commands will; the single file has another way to it.
  Object.assign(exports, { answer, loadBundle, markOfNode, refuseOldNode });
}

/** Of each way in which imgtx comes: how it was called, what it is, and how its bundle is had. */
function answer({ program, version, build, load }) {
  const [, , first, ...rest] = process.argv;
  // Linked under that name, imgtx speaks qemu-img's grammar, and gives its version in qemu-img's form too.
  const isQemuImg = program === "qemu-img" || program.endsWith("/qemu-img");
  if (!isQemuImg && rest.length === 0 && (first === "--version" || first === "-V")) {
    print(`imgtx ${version()}\n${build()}\n`);
  } else {
    void start(isQemuImg, load);
  }
}

function print(text) {
  try {
    writeSync(1, text);
  } catch (error) {
    // A reader that has gone is no error; a pipe that is full for the moment takes it later.
    if (error.code === "EAGAIN") process.stdout.write(text);
    else if (error.code !== "EPIPE") fail(`the version could not be written: ${error.message}`);
  }
}

async function start(isQemuImg, load) {
  giveCertificatesBack();
  // Whoever waits for a lock of this process reads its name in /proc, where it would be called "node".
  process.title = [isQemuImg ? "qemu-img" : "imgtx", ...process.argv.slice(2)].join(" ");
  // A bundle of its own has the commands of img, so that no other command pays for them.
  const needsImg = isQemuImg || process.argv.some((word) => word === "img" || word === "completion");
  const bundle = load(needsImg);
  await bundle?.launch({ writeDirectly: writeSync, isTerminal, mayBeClosed, isQemuImg });
}

/** What the built bundle exports. Undefined where there is none, and that is said. */
function loadBuilt(needsImg) {
  const refused = refuseOldNode(process.versions.node);
  if (refused !== undefined) {
    fail(refused);
    return undefined;
  }
  const file = `${DIST}/${needsImg ? "imgtx-img" : "imgtx"}.cjs`;
  try {
    return loadBundle(file).exports;
  } catch (error) {
    if (error.code !== "ENOENT" || error.path !== file) throw error;
    fail(adviseToBuild(`${__dirname}/..`));
    return undefined;
  }
}

/** Undefined where it is new enough, as package.json has it: npm only warns of one that is not. */
function refuseOldNode(version) {
  const [major, minor] = version.split(".").map(Number);
  if (major > 20 || (major === 20 && minor >= 15)) return undefined;
  return `imgtx needs Node 20.15 or newer, and this is ${version}\n  hint: install a newer one, or imgtx as a single file, which needs none`;
}

/** Hooks and the commands of transactions are other programs, and may talk to anybody. */
function giveCertificatesBack() {
  const { IMGTX_CA_CERTS: certificates } = process.env;
  if (certificates) process.env.NODE_EXTRA_CA_CERTS = certificates;
  delete process.env.IMGTX_CA_CERTS;
}

/** A package has no sources, so whoever installed it can't build it: it was packed wrongly. */
function adviseToBuild(top) {
  return existsSync(`${top}/src`)
    ? `imgtx has not been built\n  hint: run \`npm ci && npm run build\` in its folder`
    : `this package of imgtx was packed without its code\n  hint: in a clone of imgtx run \`npm ci && npm run build && npm pack\`, and install that package`;
}

/**
 * Loads the bundle with the code that V8 compiled of it at build time, where that is of this very Node:
 * compiling anew takes longer than most commands run. The compiled script, and what the bundle exports.
 * ENOENT where it has not been built.
 */
function loadBundle(file) {
  const Module = require("node:module");
  const { Script } = require("node:vm");
  const script = new Script(Module.wrap(readFileSync(file, "latin1")), {
    filename: file,
    cachedData: readCompiled(`${file}.cache`),
  });
  const bundle = { exports: {} };
  const folder = file.slice(0, file.lastIndexOf("/"));
  script.runInThisContext()(bundle.exports, Module.createRequire(file), bundle, file, folder);
  return { script, exports: bundle.exports };
}

/** The compiled code, which ends with the mark of the Node that compiled it. Undefined where that is another one. */
function readCompiled(file) {
  const bytes = readIfThere(file);
  const mark = Buffer.from(markOfNode());
  return bytes?.subarray(-mark.length).equals(mark) ? bytes.subarray(0, -mark.length) : undefined;
}

/**
 * What this Node is. V8 takes compiled code of whatever has its version and its flags, and crashes by it where the
 * processor is another one, or Node a newer one with the same V8 but for patches.
 */
function markOfNode() {
  const size = statSync(process.execPath, { throwIfNoEntry: false })?.size;
  return `\n${process.arch} ${size} ${Object.values(process.versions).join(" ")}\n`;
}

function readIfThere(file) {
  try {
    return readFileSync(file);
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** As node:tty has it, which takes 3 ms to load: only for what may be one, so not for a file or a pipe. */
function isTerminal(descriptor) {
  const MEMORY_DEVICES = 1;
  try {
    const stats = fstatSync(descriptor);
    const isDevice = stats.isCharacterDevice() && stats.rdev >> 8 !== MEMORY_DEVICES;
    return isDevice && require("node:tty").isatty(descriptor);
  } catch (error) {
    if (error.code !== "EBADF") throw error;
    return false;
  }
}

/**
 * Node opens the null device for reading and writing in the place of a descriptor that it is started without
 * (`>&-`), and nothing tells that from one that the caller opened so; `>/dev/null` opens it for writing alone.
 */
function mayBeClosed(descriptor) {
  const stats = fstatSync(descriptor);
  const NULL_DEVICE = 0x103;
  if (!stats.isCharacterDevice() || stats.rdev !== NULL_DEVICE) return false;
  const fields = readIfThere(`/proc/self/fdinfo/${descriptor}`)?.toString("latin1") ?? "";
  const flags = Number.parseInt(/^flags:\s*([0-7]+)$/m.exec(fields)?.[1] ?? "0", 8);
  const ACCESS_MODE = 3;
  return (flags & ACCESS_MODE) === constants.O_RDWR;
}

function fail(message) {
  process.stderr.write(`error: ${message}\n`);
  process.exitCode = 1;
}
