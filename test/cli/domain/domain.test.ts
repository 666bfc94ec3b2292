// `--domain`: disks of libvirt's domains, as `doctor` and `device add` take them. There is no libvirt here: its XML is from
// files, stdin, and a program called virsh.

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { readDisks } from "../../../src/cli/domain/disks.ts";
import { runCli } from "../../helpers/cli/harness.ts";
import { oracle } from "../../helpers/oracles.ts";
import { PROGRAM, runProgram } from "../../helpers/program.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

function domain(...disks: readonly string[]): string {
  return `<domain type='kvm'><name>web1</name><devices>${disks.join("\n")}<console/></devices></domain>`;
}

function disk(
  target: string,
  source: string,
  { format = "qcow2", attributes = "type='file'", more = "" } = {},
): string {
  return `<disk ${attributes}><driver name='qemu' type='${format}'/>${source}${more}<target dev='${target}'/></disk>`;
}

const BACKING =
  "<backingStore type='file'><format type='raw'/><source file='/old/base.raw'/><backingStore/></backingStore>";

test("of each kind of disk it is said what it is", () => {
  const cdrom = { format: "raw", attributes: "type='file' device='cdrom'" };
  const xml = domain(
    disk("vda", "<source file='/i/a &amp; b.qcow2' index='1'/>", { more: BACKING }),
    disk("vdb", "<source dev='/dev/vg/b'/>", { format: "raw", attributes: "type='block' device='disk'" }),
    disk("sda", "", cdrom),
    disk("sdb", "<source file='/i/../iso/x.iso'/>", cdrom),
    disk("vdc", "<source protocol='rbd' name='pool/c'/>", { attributes: "type='network'" }),
    disk("vdd", "<source pool='p' volume='d'/>", { attributes: "type='volume'" }),
    disk("vde", "<source file='/i/e.vmdk'/>", { format: "vmdk" }),
    disk("vdf", "<source file='relative'/>"),
    disk("vdg", "<source file='/i/g'><encryption format='luks'/></source>"),
    disk("vdh", "<source file='/i/h'/>", {
      more: "<mirror type='file' job='copy'><source file='/i/h2'/></mirror>",
    }),
    disk("sdc", "<source dev='/dev/sg1'/>", { attributes: "type='block' device='lun'" }),
    disk("vdi", "<source type='vfio'/>", { attributes: "type='nvme'" }),
    disk("vdj", "<source file='/i/j'><slices><slice type='storage' offset='0' size='9'/></slices></source>"),
    "<disk><source file='/i/k'/><target dev='vdk'/></disk>",
  );
  expect(readDisks(xml, "it").flatMap(({ target, isReadOnly }) => (isReadOnly ? [target] : []))).toEqual([
    "sda",
    "sdb",
  ]);
  const told = readDisks(xml, "it").map(({ target, path, format, why }) => [target, path, format, why]);
  expect(told).toEqual([
    ["vda", "/i/a & b.qcow2", "qcow2", undefined],
    ["vdb", "/dev/vg/b", "raw", undefined],
    ["sda", undefined, "raw", "it is a CD-ROM drive"],
    ["sdb", "/i/../iso/x.iso", "raw", "it is a CD-ROM drive"],
    ["vdc", undefined, "qcow2", "it is on the network (rbd: pool/c)"],
    [
      "vdd",
      undefined,
      "qcow2",
      "it is the volume 'd' of libvirt's pool 'p', whose path `virsh vol-path` tells",
    ],
    ["vde", "/i/e.vmdk", "vmdk", "its format is 'vmdk'"],
    ["vdf", undefined, "qcow2", "its name 'relative' is not absolute"],
    ["vdg", "/i/g", "qcow2", "it is encrypted"],
    ["vdh", "/i/h", "qcow2", "libvirt is copying it to another image"],
    ["sdc", "/dev/sg1", "qcow2", "the guest has all of that device by SCSI commands"],
    ["vdi", undefined, "qcow2", "it is of the type 'nvme', and no image of this host"],
    ["vdj", "/i/j", "qcow2", "it is a part of a file"],
    ["vdk", "/i/k", undefined, undefined],
  ]);
});

test.each([
  ["<domainsnapshot/>", "its root element is <domainsnapshot>, and not <domain>"],
  ["<domain>", "it is no XML: line 1: <domain> is not closed"],
  [domain("<disk/>"), "a disk has no <target dev=…>"],
  [domain(disk("vda", ""), disk("vda", "")), "two disks are called 'vda'"],
])("%s is no domain", (xml, why) => {
  expect(() => readDisks(xml, "stdin")).toThrow(`stdin is not taken for a domain of libvirt's: ${why}`);
});

/** Two disks and a CD-ROM drive, in a folder of theirs. */
function makeGuest(): { readonly cwd: string; readonly xml: string } {
  const cwd = makeFolder();
  const bytes = sampleQcow2({ virtualSizeBytes: 64 * 1024, dataClusters: [0], seed: 1 });
  for (const name of ["a", "b"]) writeFileSync(`${cwd}/${name}.qcow2`, bytes);
  const xml = domain(
    disk("vda", `<source file='${cwd}/a.qcow2'/>`),
    disk("vdb", `<source file='${cwd}/b.qcow2'/>`),
    disk("sda", "<source file='/nowhere.iso'/>", { attributes: "type='file' device='cdrom'" }),
  );
  writeFileSync(`${cwd}/guest.xml`, xml);
  return { cwd, xml };
}

test("device add takes all disks of a domain by their names, in one transaction, and once", async () => {
  const { cwd, xml } = makeGuest();
  const add = ["device", "add", "--domain", "-", "--json"];
  const dry = await runCli([...add, "--dry-run"], { cwd, stdin: xml });
  expect(dry).toMatchObject({
    status: 0,
    stderr: `{"schema":1,"notice":"left out sda: it is a CD-ROM drive"}\n`,
  });
  const first = await runCli(add, { cwd, stdin: xml });
  expect(JSON.parse(first.stdout)).toMatchObject({ changed: true, generation: 1 });
  const again = await runCli(add, { cwd, stdin: xml });
  expect(again.status).toBe(0);
  expect(JSON.parse(again.stdout)).toMatchObject({ changed: false, generation: 1, actions: [] });
  const { stdout } = await runCli(["device", "list", "-q"], { cwd });
  expect(stdout).toBe("vda\nvdb\n");
});

test("device add of a domain is all or nothing, and holds to the gate", async () => {
  const { cwd, xml } = makeGuest();
  const wrong = xml
    .replace("type='qcow2'/><source file", "type='raw'/><source file")
    .replace("b.qcow2", "c.qcow2");
  const { status, stderr } = await runCli(["device", "add", "--domain", "-"], { cwd, stdin: wrong });
  expect(status).toBe(14);
  expect(stderr).toContain("c.qcow2");
  const block = domain(disk("vda", "<source dev='/dev/loop-control'/>", { attributes: "type='block'" }));
  expect(await runCli(["device", "add", "--domain", "-"], { cwd, stdin: block })).toMatchObject({
    status: 14,
  });
  const hostile = domain(disk("../../vda", `<source file='${cwd}/a.qcow2'/>`));
  expect(await runCli(["device", "add", "--domain", "-"], { cwd, stdin: hostile })).toMatchObject({
    status: 64,
  });
  const none = domain(disk("vda", "<source protocol='nbd' name='x'/>", { attributes: "type='network'" }));
  const refused = await runCli(["device", "add", "--domain", "-"], { cwd, stdin: none });
  expect(refused.status).toBe(14);
  expect(refused.stderr).toContain("left out vda: it is on the network (nbd: x)");
  for (const words of [
    ["vda", "a.qcow2", "--domain", "x"],
    ["--domain", "x", "--format", "raw"],
    ["vda"],
    [],
  ]) {
    expect((await runCli(["device", "add", ...words], { cwd })).status, words.join(" ")).toBe(64);
  }
});

test("doctor looks at the images of a domain, and says what it can't look at", async () => {
  const { cwd } = makeGuest();
  const sound = await runCli(["doctor", "--domain", "./guest.xml"], { cwd });
  expect(sound.stdout).toContain("Sound: 2 images");
  expect(sound.stdout).toContain("Not looked at: sda of the domain: it is not there.");
  expect(sound).toMatchObject({ status: 0, stderr: "" });
  const missing = readFileSync(`${cwd}/guest.xml`, "utf8").replace("b.qcow2", "gone.qcow2");
  expect((await runCli(["doctor", "--domain", "-"], { cwd, stdin: missing })).status).toBe(14);
  for (const words of [
    ["--domain", "x", "."],
    ["--domain", ""],
    ["--for-start", "--fix", "."],
    ["--domain", "-x"],
  ]) {
    const readProgram = async () => await Promise.reject(new Error("nothing is to be run"));
    expect((await runCli(["doctor", ...words], { cwd, readProgram })).status, words.join(" ")).toBe(64);
  }
});

test("a domain by its name is what virsh prints of it; what virsh complains of is told", async () => {
  const { cwd, xml } = makeGuest();
  mkdirSync(`${cwd}/bin`);
  writeFileSync(`${cwd}/bin/web1`, xml);
  const script = [
    "#!/bin/sh",
    `[ "$1 $2 $#" = "dumpxml web1 2" ] && exec cat '${cwd}/bin/web1'`,
    '[ "$2" = big ] && exec cat /dev/zero',
    "echo \"error: failed to get domain '$2'\" >&2; echo more >&2; exit 1",
  ];
  writeFileSync(`${cwd}/bin/virsh`, script.join("\n"), { mode: 0o755 });
  const run = async (name: string, PATH = `${cwd}/bin:${process.env["PATH"] ?? ""}`) =>
    await runProgram(PROGRAM, ["doctor", "--domain", name], { cwd, env: { PATH } });
  expect((await run("web1")).stdout).toContain("Sound: 2 images");
  expect(await run("web2")).toMatchObject({
    status: 14,
    stdout: "",
    stderr: expect.stringContaining("'web2': it ended with 1: error: failed to get domain 'web2'\n"),
  });
  const big = await run("big");
  expect(big.status).toBe(14);
  expect(big.stderr).toContain("SIGKILL");
});

/** What keeps the guest from being started: codes with devices. */
async function askForStart(xml: string): Promise<{ status: number; told: string }> {
  const words = ["doctor", "--for-start", "--domain", "-", "--json"];
  // From a folder that has no workspace.
  const { status, stdout, stderr } = await runCli(words, { cwd: "/", stdin: xml });
  if (stdout === "") return { status, told: stderr };
  const { findings } = JSON.parse(stdout) as {
    findings: { code: string; device: string; command: string }[];
  };
  return { status, told: findings.map(({ code, device }) => `${code} ${device}`).join(", ") };
}

test("a guest is not to be started on what is frozen, or in a transaction, and on all else it is", async () => {
  const { cwd, xml } = makeGuest();
  const run = async (...words: string[]): Promise<string> => {
    const { status, stdout, stderr } = await runCli(words, { cwd });
    expect(status, stderr).toBe(0);
    return stdout.trim();
  };
  expect(await askForStart(xml)).toEqual({ status: 0, told: "" });
  await run("device", "add", "--domain", "./guest.xml");
  expect(await askForStart(xml)).toEqual({ status: 0, told: "" });
  await run("freeze", "vdb");
  expect(await askForStart(xml)).toEqual({ status: 1, told: "guest-frozen vdb" });
  await run("unfreeze", "vdb");
  const id = await run("txn", "begin");
  await run("snapshot", "vda", "a2.qcow2", "--txn", id);
  expect(await askForStart(xml)).toEqual({ status: 1, told: "guest-held vda" });
  // What the transaction has put over the device, and another guest's clone of the device below.
  const onNew = domain(disk("vda", `<source file='${cwd}/a2.qcow2'/>`));
  expect(await askForStart(onNew)).toEqual({ status: 1, told: "guest-held vda" });
  const other = domain(disk("vda", `<source file='${cwd}/b.qcow2'/>`));
  expect(await askForStart(other)).toEqual({ status: 0, told: "" });
  await run("txn", "commit", "--txn", id);
  expect(await askForStart(onNew)).toEqual({ status: 0, told: "" });
  // Libvirt still names what the device was on: a start there would ruin the snapshot, and the device.
  expect(await askForStart(xml)).toEqual({ status: 1, told: "guest-below vda" });
  // A guest that has it read-only ruins nothing; one that has it by another name to write to does.
  const below = `<source file='${cwd}/a.qcow2'/>`;
  const readOnly = disk("vda", below, { more: "<readonly/>" });
  expect(await askForStart(domain(readOnly))).toEqual({ status: 0, told: "" });
  symlinkSync("a.qcow2", `${cwd}/same.qcow2`);
  for (const source of [below, `<source file='${cwd}/same.qcow2'/>`]) {
    const both = domain(readOnly, disk("vdb", source));
    expect(await askForStart(both)).toEqual({ status: 1, told: "guest-below vda" });
  }
  // Doubts: a workspace that is named and is none, and a journal that can't be read.
  const nowhere = ["doctor", "--for-start", "--domain", "-", "--workspace", "/nowhere"];
  expect((await runCli(nowhere, { cwd, stdin: other })).status).toBe(1);
  writeFileSync(`${cwd}/.imgtx/journal/0000000000.journal`, "no journal\n");
  expect(await askForStart(other)).toEqual({ status: 1, told: "guest-held null" });
});

test("doctor says of a domain what it must not start on, and where it has another format than the image", async () => {
  const { cwd, xml } = makeGuest();
  const imgtx = async (line: string) =>
    expect(await runCli(line.split(" "), { cwd })).toMatchObject({ status: 0 });
  const ask = async (text: string, ...words: string[]): Promise<string[]> => {
    const argv = ["doctor", "--domain", "-", "--json", "--level", "error", ...words];
    const { findings } = JSON.parse((await runCli(argv, { cwd, stdin: text })).stdout) as {
      findings: { code: string; device: string | null; path: string; text: string }[];
    };
    return findings.map(({ code, device, path }) => `${code} ${device} ${path.replace(`${cwd}/`, "")}`);
  };
  const asRaw = xml.replaceAll("type='qcow2'", "type='raw'");
  expect(await ask(xml)).toEqual([]);
  expect(await ask(asRaw)).toEqual(["guest-format null a.qcow2", "guest-format null b.qcow2"]);
  expect(await ask(asRaw.replaceAll(/<driver [^>]*>/g, ""))).toHaveLength(2);
  // A header alone does not keep a guest from its disk, which it may have written itself; the device table does.
  expect(await ask(asRaw, "--for-start")).toEqual([]);
  await imgtx("device add vda a.qcow2");
  expect(await ask(asRaw, "--for-start")).toEqual(["guest-format vda a.qcow2"]);
  writeFileSync(`${cwd}/disk`, new Uint8Array(65_536));
  const other = domain(disk("vda", `<source file='${cwd}/disk'/>`));
  expect(await ask(other)).toEqual(["guest-format null disk"]);
  expect(await ask(other.replace("type='qcow2'", "type='raw'"))).toEqual([]);
  // Below a device, and kept by a snapshot alone once the device has gone to another image.
  await imgtx("snapshot vda --name one");
  expect(await ask(xml)).toEqual(["guest-below vda a.qcow2"]);
  await imgtx("reopen vda b.qcow2");
  expect(await ask(xml)).toEqual(["guest-below null a.qcow2"]);
  expect(await ask(xml, "--for-start")).toEqual(["guest-below null a.qcow2"]);
  // No guest is spoken of where an image is: one may look at what a snapshot keeps.
  expect((await runCli(["doctor", "a.qcow2"], { cwd })).status).toBe(0);
  await imgtx("snapshot-delete one --yes");
  expect(await ask(xml)).toEqual([]);
});

const PAGE = readFileSync(new URL("../../../man/imgtx-libvirt.7", import.meta.url), "utf8");
const [, HOOK = ""] = /^\.Bd -literal\n([^]*?)^\.Ed$/m.exec(PAGE.replaceAll("\\e", "\\")) ?? [];
const checked = oracle("shellcheck");

checked.test("shellcheck finds nothing in the hook of the manual", () => {
  const { status, stdout } = spawnSync("shellcheck", ["-"], { input: HOOK, encoding: "utf8" });
  expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
});

test("the hook lets a guest start, but not on a frozen disk, whose workspace is listed alone", async () => {
  const { xml } = makeGuest();
  const [workspace, bin] = [makeFolder(), makeFolder()];
  expect((await runCli(["device", "add", "--domain", "-"], { cwd: workspace, stdin: xml })).status).toBe(0);
  symlinkSync(PROGRAM, `${bin}/imgtx`);
  writeFileSync(`${bin}/hook`, HOOK, { mode: 0o755 });
  writeFileSync(`${bin}/list`, `# one\n\n${workspace}`);
  const hook = (operation: string, env: Readonly<Record<string, string>> = {}) =>
    spawnSync("bash", ["-euo", "pipefail", `${bin}/hook`, "web1", ...operation.split(" "), "-"], {
      cwd: "/",
      env: { PATH: `${bin}:${process.env["PATH"] ?? ""}`, IMGTX_WORKSPACES: `${bin}/list`, ...env },
      encoding: "utf8",
      input: xml,
    });
  expect(hook("prepare begin")).toMatchObject({ status: 0, stdout: "", stderr: "" });
  expect((await runCli(["freeze", "vda"], { cwd: workspace })).status).toBe(0);
  const refused = hook("prepare begin");
  expect(refused).toMatchObject({ status: 1, stdout: "" });
  expect(refused.stderr).toContain("device vda is frozen");
  expect(refused.stderr).toContain(`imgtx --workspace ${workspace} unfreeze vda`);
  expect(hook("release end").status).toBe(0);
  rmSync(`${bin}/imgtx`);
  const without = hook("prepare begin", { PATH: "/usr/bin:/bin" });
  expect(without).toMatchObject({ status: 0, stderr: expect.stringContaining("imgtx is not installed") });
});
