import { readdirSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { IMG_TABLE } from "../../../src/cli/img/table.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runCli } from "../../helpers/cli/harness.ts";
import { makeFolder, runBoth, runImg, runQemu, shell } from "../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img");

describe("before the verb", () => {
  qemu.test.each([[[]], [["frob"]], [["--frob"]], [["-x", "create"]], [["-T"]]])(
    "%j is refused as qemu-img refuses it",
    async (words) => {
      const { qemu: theirs, ours } = await runBoth("", words);
      expect(ours).toEqual(theirs);
      expect(ours.status).toBe(1);
    },
  );

  // At a mistake qemu-img's measure prints its help and ends with 0, which nobody can want.
  const verbs = IMG_TABLE.map(({ verb }) => verb).filter((verb) => verb !== "measure");

  qemu.test.each(verbs)("%s refuses an unknown option as there", async (verb) => {
    for (const words of [
      [verb, "--frob"],
      [verb, "-Z", "x"],
      // bench has it in newer versions only.
      ...(verb === "bench" ? [] : [[verb, "--object"]]),
    ]) {
      const { qemu: theirs, ours } = await runBoth("", words);
      expect(ours).toEqual(theirs);
    }
  });

  test("the version has the form that scripts read", async () => {
    const { status, stdout } = await runImg(makeFolder(), ["--version"]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^qemu-img version \d+\.\d+\.\d+ \(imgtx /);
  });

  test("help is qemu-img's in form: every command with its flags on one line", async () => {
    const folder = makeFolder();
    const help = await runImg(folder, ["--help"]);
    expect(help).toMatchObject({ status: 0, stderr: "" });
    for (const { verb, load } of IMG_TABLE) {
      const line = help.stdout.split("\n").find((each) => each.startsWith(`  ${verb} `)) ?? "";
      for (const { short, long } of (await load()).definition.options) {
        expect(line).toContain(short === undefined ? `[--${long}` : `[-${short}`);
      }
      expect(await runImg(folder, [verb, "--help"])).toEqual(help);
    }
  });
});

test.each(IMG_TABLE.map(({ verb }) => verb))("%s refuses secrets by name", async (verb) => {
  const words = [verb, "--object", "secret,id=s,data=x", "a", "b"];
  expect(await runImg(makeFolder(), words, { program: "imgtx" })).toEqual({
    status: verb === "compare" ? 2 : 1,
    stdout: "",
    stderr: "imgtx: --object secret: objects of QEMU, such as secrets, are not supported\n",
  });
});

describe("before img, under imgtx's own name", () => {
  test("stand the options of every command", async () => {
    const folder = makeFolder();
    shell(folder, "truncate -s 1M a.raw");
    const asked = await runCli(["--json", "img", "info", "a.raw"], { cwd: folder });
    expect(JSON.parse(asked.stdout)).toMatchObject({ "virtual-size": 2 ** 20 });
  });

  test("--dry-run is refused, since nothing has it", async () => {
    const { status, stderr } = await runCli(["--dry-run", "img", "create", "x", "1M"], { cwd: makeFolder() });
    expect(status).toBe(64);
    expect(stderr).toContain("have no --dry-run");
  });

  test("another command of imgtx may have an argument of that name", async () => {
    const { stderr } = await runCli(["device", "show", "img"], { cwd: makeFolder() });
    expect(stderr).not.toContain("imgtx: ");
    expect(stderr).toMatch(/^error: /);
  });
});

const daemon = oracle("qemu-img", "qemu-storage-daemon");

describe("while a guest writes", () => {
  let folder = "";

  beforeAll(() => {
    if (daemon.skip) return;
    folder = makeFolder();
    shell(
      folder,
      `qemu-img create -q -f qcow2 a.qcow2 1M
       qemu-img create -q -f qcow2 b.qcow2 1M
       qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2
       qemu-storage-daemon --blockdev file,filename=a.qcow2,node-name=f --blockdev qcow2,file=f,node-name=q \\
         --export vhost-user-blk,id=e,node-name=q,addr.type=unix,addr.path=$PWD/s,writable=on \\
         --daemonize --pidfile pid`,
    );
  });

  afterAll(() => {
    if (!daemon.skip) shell(folder, 'kill "$(cat pid)"');
  });

  daemon.test.each([
    "info a.qcow2",
    "map a.qcow2",
    "check a.qcow2",
    "measure -O qcow2 a.qcow2",
    "compare a.qcow2 b.qcow2",
    "compare b.qcow2 over.qcow2",
    "convert a.qcow2 o",
    "convert over.qcow2 o",
    "convert b.qcow2 a.qcow2",
    "convert -n -O qcow2 b.qcow2 a.qcow2",
    "dd if=a.qcow2 of=o",
    "dd if=b.qcow2 of=a.qcow2",
  ])("%s is refused in qemu-img's words", async (line) => {
    const before = readdirSync(folder);
    const ours = await runImg(folder, line.split(" "));
    expect(readdirSync(folder)).toEqual(before);
    expect(ours).toEqual(runQemu(folder, line.split(" ")));
    expect(ours.stderr).toContain("Is another process using the image [a.qcow2]?");
  });

  daemon.test("who has the image is said under imgtx's own name", async () => {
    const { stderr } = await runImg(folder, ["info", "a.qcow2"], { program: "imgtx" });
    expect(stderr).toMatch(
      /\n {2}hint: in use by pid \d+ \(qemu-storage-daemon\); -U reads it all the same, [^\n]*\n$/,
    );
    for (const line of [
      "create -q -f qcow2 -b a.qcow2 -F qcow2 n.qcow2",
      "convert -n -O qcow2 b.qcow2 a.qcow2",
    ]) {
      const ours = await runImg(folder, line.split(" "), { program: "imgtx" });
      expect(ours.stderr, line).toContain("in use by pid");
      expect(ours.stderr, line).not.toContain("-U");
    }
  });

  daemon.test.each(["info -U a.qcow2", "compare -U a.qcow2 b.qcow2", "convert -U a.qcow2 unlocked"])(
    "%s does not ask",
    async (line) => {
      expect((await runImg(folder, line.split(" "))).status).toBe(0);
    },
  );
});

describe("a name that would forge lines of output", () => {
  const forged = "a\nimgtx: all is well\n%: \u001b[31m\u202e\u009b2J\u0007.qcow2";

  /** What the program itself begins a line with. */
  const OWN_LINE =
    /^(imgtx: |Try 'imgtx|  hint: |Could not open backing image\.$|Is another process|Detected format|Optional suffix|and exabytes)/;

  test.each(IMG_TABLE.map(({ verb }) => verb))("is escaped wherever %s tells it", async (verb) => {
    for (const words of [
      [forged],
      [`./${forged}`],
      [`file:./${forged}`],
      [forged, forged],
      [`if=${forged}`, `of=${forged}`],
      ["-f", forged, forged],
      ["-f", "qcow2", "-b", `./${forged}`, "-F", "qcow2", "new.qcow2"],
      ["-f", "qcow2", "-o", `${forged}=1`, "new.qcow2", "1M"],
      ["-O", forged, `./${forged}`, "new"],
      ["--image-opts", `driver=qcow2,file.filename=${forged}`],
      ["--image-opts", `driver=${forged},file.filename=x`],
      [`json:{"driver":"qcow2","file":{"driver":"file","filename":${JSON.stringify(forged)}}}`],
      [`--${forged}`],
      [`--output=${forged}`, "x"],
    ]) {
      const { stdout, stderr } = await runImg(makeFolder(), [verb, ...words], { program: "imgtx" });
      const told = stdout + stderr;
      expect(told).not.toMatch(/all is well\n|^imgtx: all is well/m);
      // oxlint-disable-next-line no-control-regex
      expect(told).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e]/);
      for (const line of stderr.split("\n").filter((each) => each !== "")) expect(line).toMatch(OWN_LINE);
    }
  });

  qemu.test("is escaped where an image stores it", async () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/name`, forged);
    shell(folder, `qemu-img create -q -u -f qcow2 -b "./$(cat name)" -F qcow2 over.qcow2 1M`);
    for (const words of [
      ["info", "over.qcow2"],
      ["info", "--backing-chain", "over.qcow2"],
      ["map", "over.qcow2"],
      ["convert", "-O", "raw", "over.qcow2", "out.raw"],
      ["create", "-f", "qcow2", "-b", "over.qcow2", "-F", "qcow2", "new.qcow2"],
      ["check", "over.qcow2"],
    ]) {
      const { stdout, stderr } = await runImg(folder, words, { program: "imgtx" });
      // oxlint-disable-next-line no-control-regex
      expect(stdout + stderr).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e]/);
      expect(stdout + stderr).not.toMatch(/^imgtx: all is well/m);
      for (const line of stderr.split("\n").filter((each) => each !== "")) expect(line).toMatch(OWN_LINE);
    }
  });
});

test.each([
  ["create", "-f", "qcow2", "-o", "cluster_size=2M", "x.qcow2", "9P"],
  ["create", "-f", "qcow2", "-o", "cluster_size=2M,size=32P", "x.qcow2"],
  ["create", "x.raw", "0x20000000000000"],
  ["measure", "-O", "qcow2", "--size", "32P"],
])("a size that qemu-img takes and imgtx does not is refused for that: %s %s %s", async (...words) => {
  const { status, stderr } = await runImg(makeFolder(), words, { program: "imgtx" });
  expect(status).toBe(1);
  expect(stderr).toContain("is too large: imgtx takes sizes below 8 PiB (9007199254740992 bytes)");
  expect(stderr).not.toContain("Must be between");
});
