// What the single file promises beside being imgtx: it needs the C library and nothing else, unpacks nothing, and takes
// nothing from the folder that it runs in. `npm run test:binary` builds it and names it in IMGTX_BIN.

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { oracle } from "../helpers/oracles.ts";
import { PROGRAM } from "../helpers/program.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const root = oracle("root", "mounts");

/** A session that changes two disks, with the status of each command; `run` is what starts imgtx. */
function session(run: string, folder: string): string {
  return [
    `cd ${folder}`,
    `${run} img create -q -f qcow2 a.qcow2 1M && ${run} img create -q -f qcow2 b.qcow2 1M; echo $?`,
    `${run} device add -q vda a.qcow2 && ${run} device add -q vdb b.qcow2; echo $?`,
    `${run} txn begin --name both >/dev/null && ${run} snapshot-group -q --all --name monday; echo $?`,
    `${run} txn commit -q both; echo $?`,
    `${run} img convert -c -O qcow2 a.qcow2 packed.qcow2 && ${run} img compare -q a.qcow2 packed.qcow2; echo $?`,
    `${run} img convert -c -o compression_type=zstd -O qcow2 a.qcow2 zstd.qcow2 && ${run} img check -q zstd.qcow2; echo $?`,
    `${run} rollback -q --to monday; echo $?`,
  ].join("\n");
}
const ALL_DONE = "0\n".repeat(7);

function runShell(
  script: string,
  cwd = makeFolder(),
): { status: number | null; stdout: string; stderr: string } {
  return spawnSync("bash", ["-c", script], { cwd, encoding: "utf8" });
}

root.test("works in an empty root, with the C library, /proc and a shell's redirections alone", () => {
  const folder = makeFolder();
  const libraries = execFileSync("ldd", [PROGRAM], { encoding: "utf8" }).matchAll(/(?:=> |^\s*)(\/\S+) \(/gm);
  for (const [, file = ""] of libraries) {
    mkdirSync(`${folder}${dirname(file)}`, { recursive: true });
    cpSync(file, `${folder}${file}`, { dereference: true });
  }
  for (const name of ["proc", "w"]) mkdirSync(`${folder}/${name}`);
  cpSync(PROGRAM, `${folder}/imgtx`);
  // The shell stays outside: each command goes into the root by itself.
  const inside = `chroot ${folder} /imgtx --workspace /w`;
  const script = session(inside, "/")
    .replaceAll(/ ([\w]+\.qcow2)/g, " /w/$1")
    .replaceAll("/w img", "/w img");
  const { stdout, stderr } = runShell(`unshare -m bash -c '
    mount -t proc proc ${folder}/proc
    ${script.replaceAll("--workspace /w img", "img").replaceAll("'", "")}'`);
  expect({ stdout, stderr }).toEqual({ stdout: ALL_DONE, stderr: "" });
});

root.test("unpacks nothing: it works where no temporary folder may be executed from, and leaves none", () => {
  const program = PROGRAM.replaceAll("'", "");
  const { stdout, stderr } = runShell(`unshare -m bash -c '
    mount -t tmpfs -o noexec,nosuid none /mnt && mkdir /mnt/temporary /mnt/w
    export TMPDIR=/mnt/temporary BUN_TMPDIR=/mnt/temporary HOME=/mnt/w
    ${session(program, "/mnt/w")}
    ls -A /mnt/temporary /mnt/w | grep -v qcow2'`);
  expect({ stdout, stderr }).toEqual({
    stdout: `${ALL_DONE}/mnt/temporary:\n\n/mnt/w:\n.imgtx\ndevices\n`,
    stderr: "",
  });
});

root.test(
  "prints times in the system's zone, or in that of TZ, also where it may make no code as it runs",
  () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/zone`, zoneFile(3.75 * 3600, "<+0345>-3:45"));
    const { stdout, stderr } = runShell(
      `unset TZ; unshare -m bash -c '
    ${PROGRAM} img create -q -f raw a.raw 1M && ${PROGRAM} device add -q vda a.raw --format raw
    mount --bind zone /etc/localtime
    for set in A=1 TZ=Asia/Tokyo BUN_JSC_useJIT=0; do env $set ${PROGRAM} history | grep -m1 -o "[+]..:..\\|Z " || echo none; done'`,
      folder,
    );
    // The runtime's dates know no zone by the bytes of its file alone.
    expect({ stdout, stderr }).toEqual({ stdout: "+03:45\n+09:00\nZ \n", stderr: "" });
  },
);

/** A file of a zone, as zic makes it, that has one offset for good. */
function zoneFile(secondsAhead: number, rule: string): Buffer {
  const block = Buffer.alloc(44 + 6 + 4);
  block.write("TZif2");
  // One kind of local time, whose name has four bytes.
  block.writeUInt32BE(1, 36);
  block.writeUInt32BE(4, 40);
  block.writeInt32BE(secondsAhead, 44);
  block.write("IMG", 50);
  return Buffer.concat([block, block, Buffer.from(`\n${rule}\n`)]);
}

test("loads nothing of the runtime's that takes long, such as all of node:crypto, to read or to make a snapshot", () => {
  const folder = makeFolder();
  const program = PROGRAM.replaceAll("'", "");
  const { stderr } = runShell(
    `${program} img create -q -f qcow2 a.qcow2 1M && ${program} device add -q vda a.qcow2
    export BUN_JSC_verboseOSR=1
    ${program} device list && ${program} snapshot vda`,
    folder,
  );
  const loaded = new Set(
    Array.from(stderr.matchAll(/^Installing ((?:node|internal):[\w/]+)/gm), ([, name]) => name),
  );
  expect(loaded).toEqual(
    new Set([
      "internal:abort_listener",
      "internal:fs/binding",
      "internal:shared",
      "internal:validators",
      "node:events",
      "node:fs",
      "node:path",
    ]),
  );
});

test("flushes the images of a group in more threads than two, where nobody has said how many, and tells no program of it", () => {
  const folder = makeFolder();
  const disks = Array.from({ length: 12 }, (_, index) => `d${index}`);
  const make = disks.map(
    (name) =>
      `'${PROGRAM}' img create -q -f qcow2 ${name}.qcow2 1M && '${PROGRAM}' device add -q ${name} ${name}.qcow2`,
  );
  // The disk takes its time: so no thread has done with one image before the next ones want to be flushed.
  const traced = (env: string, trace: string): string =>
    `${env} strace -f -qq -o ${trace} -e trace=fsync -e signal=none -e inject=fsync:delay_exit=20000 ` +
    `'${PROGRAM}' snapshot-group -q --all --after 'printenv UV_THREADPOOL_SIZE >>seen || echo none >>seen'`;
  const script = [
    "unset UV_THREADPOOL_SIZE GOMAXPROCS; set -e",
    `'${PROGRAM}' init -q .`,
    ...make,
    traced("", "free"),
    traced("UV_THREADPOOL_SIZE=2", "set"),
  ];
  expect(runShell(script.join("\n"), folder)).toMatchObject({ status: 0, stderr: "" });
  const threads = (trace: string): number =>
    new Set(
      Array.from(readFileSync(`${folder}/${trace}`, "utf8").matchAll(/^(\d+) +fsync/gm), ([, id]) => id),
    ).size;
  expect(threads("free")).toBeGreaterThan(4);
  expect(threads("set")).toBe(2);
  expect(readFileSync(`${folder}/seen`, "utf8")).toBe("none\n2\n");
});

test("takes nothing from the folder that it runs in", () => {
  const folder = makeFolder();
  const loud = 'console.log("taken"); process.exitCode = 99;';
  writeFileSync(`${folder}/loud.js`, loud);
  writeFileSync(`${folder}/bunfig.toml`, 'preload = ["./loud.js"]\n');
  writeFileSync(`${folder}/.env`, `IMGTX_WORKSPACE=/nowhere\nBUN_OPTIONS=--preload=${folder}/loud.js\n`);
  writeFileSync(`${folder}/package.json`, '{"name": "x", "imports": {"node:fs": "./loud.js"}}');
  writeFileSync(`${folder}/tsconfig.json`, '{"compilerOptions": {"paths": {"*": ["./loud.js"]}}}');
  mkdirSync(`${folder}/node_modules/koffi`, { recursive: true });
  writeFileSync(`${folder}/node_modules/koffi/index.js`, loud);
  const { status, stdout, stderr } = spawnSync(PROGRAM, ["init", "-q"], { cwd: folder, encoding: "utf8" });
  expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(readdirSync(folder)).toContain(".imgtx");
});

test("reads where it may make no code as it runs, as in hardened units, and refuses changes with the way out", () => {
  const folder = makeFolder();
  const run = (words: string) => runShell(`BUN_JSC_useJIT=0 '${PROGRAM}' ${words}`, folder);
  runShell(
    `'${PROGRAM}' img create -q -f raw a.raw 1M; '${PROGRAM}' device add -q vda a.raw --format raw`,
    folder,
  );
  expect(run("device list -q")).toEqual(expect.objectContaining({ status: 0, stdout: "vda\n" }));
  expect(run("snapshot vda b.qcow2")).toMatchObject({
    status: 12,
    stderr: expect.stringContaining("MemoryDenyWriteExecute=no") as string,
  });
});

test("has the licences of what is inside beside it", () => {
  const text = readFileSync(`${dirname(PROGRAM)}/LICENSES.txt`, "utf8");
  for (const name of ["JavaScriptCore", "tinycc", "commander", "chalk", "MIT License"])
    expect(text).toContain(name);
});

test("says that it is the single file, of which commit, and is qemu-img where it is linked so", () => {
  const { stdout } = spawnSync(PROGRAM, ["--version"], { encoding: "utf8" });
  expect(stdout).toMatch(/^imgtx [\d.]+\nsingle file with Bun [\d.]+, commit \w+(-dirty)?\n$/);
  const folder = makeFolder();
  const linked = runShell(
    `ln -s '${PROGRAM}' qemu-img; PATH=$PWD:$PATH; qemu-img --version; qemu-img frob`,
    folder,
  );
  expect(linked).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("qemu-img: Command not found: frob") as string,
  });
  expect(linked.stdout).toMatch(/^qemu-img version [\d.]+ \(imgtx [\d.]+\)\n$/);
});
