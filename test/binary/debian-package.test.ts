// The Debian package, installed by dpkg in a root of its own: this machine's, under a layer that takes all writes.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { oracle } from "../helpers/oracles.ts";
import { PROGRAM } from "../helpers/program.ts";
import { makeFolderOfFile } from "../helpers/temporary-folder.ts";

const TOP = fileURLToPath(new URL("../..", import.meta.url));
const debian = oracle("root", "mounts", "dpkg-deb", "dpkg", "strace", "systemd-analyze");
const linted = oracle("dpkg-deb", "lintian");

let folder = "";
const packages = { older: "", newer: "" };

beforeAll(() => {
  if (debian.skip && linted.skip) return;
  folder = makeFolderOfFile();
  const build = (version: string): string =>
    execFileSync("npm", ["run", "--silent", "build:deb"], {
      cwd: TOP,
      env: {
        ...process.env,
        IMGTX_BUILT: dirname(PROGRAM),
        IMGTX_OUT: folder,
        IMGTX_DEB_VERSION: version,
        IMGTX_DEB_PACK: "-Zgzip -z1",
      },
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    }).trim();
  packages.older = build("0.0.1-1");
  packages.newer = build("0.1.0-1");
});

/** Runs a script of the shell as root of a machine like this one, which forgets it all. */
function onMachine(script: string): { status: number | null; stdout: string; stderr: string } {
  const disk = `${folder}/disk`;
  mkdirSync(disk, { recursive: true });
  const set = [
    `mount -t tmpfs none ${disk} && cd ${disk} && mkdir upper work root`,
    "mount -t overlay none -o lowerdir=/,upperdir=upper,workdir=work root",
    "mount -t proc proc root/proc && mount --bind /dev root/dev && mount -t tmpfs none root/tmp && mount -t tmpfs none root/run",
    'cp ../*.deb root/tmp && exec chroot root /bin/bash --norc -euc "$SCRIPT"',
  ].join(" && ");
  const env = {
    PATH: "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    HOME: "/root",
    LC_ALL: "C.UTF-8",
    SCRIPT: script,
  };
  return spawnSync("unshare", ["-m", "--propagation", "private", "bash", "-c", set], {
    env,
    encoding: "utf8",
  });
}

const WORKSPACE = `
mkdir /srv/w && cd /srv/w
imgtx img create -q -f qcow2 a.qcow2 1M
imgtx device add -q vda a.qcow2
`;
const installed = (which: "older" | "newer"): string =>
  `dpkg -i /tmp/${packages[which].split("/").at(-1)} >/tmp/dpkg.log 2>&1 || cat /tmp/dpkg.log`;

linted.test("lintian finds no error in it", () => {
  const { status, stdout } = spawnSync(
    "lintian",
    [
      "--fail-on=error,warning",
      "--suppress-tags=initial-upload-closes-no-bugs",
      "--allow-root",
      packages.newer,
    ],
    { encoding: "utf8" },
  );
  expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
});

debian.test("installed it works, with its pages, completions, and the recovery at boot", () => {
  const { status, stdout, stderr } = onMachine(`
    ${installed("newer")}
    ${WORKSPACE}
    imgtx device list -q
    ls /usr/share/man/man1/imgtx.1.gz /usr/share/bash-completion/completions/imgtx
    readlink /etc/systemd/system/multi-user.target.wants/imgtx-recover.service
    systemd-analyze --man=no verify imgtx-recover.service imgtx-nightly@srv-w.timer imgtx-nightly@srv-w.service
    mkdir /tmp/metrics && /usr/lib/imgtx/nightly /srv/w /tmp/metrics && ls /tmp/metrics
    command -v qemu-img
    update-alternatives --install /usr/local/bin/qemu-img qemu-img /usr/lib/imgtx/qemu-img 50 >/dev/null
    qemu-img --version | grep -o imgtx`);
  expect({ status, stdout, stderr }).toEqual({
    status: 0,
    stdout: [
      "vda",
      "/usr/share/bash-completion/completions/imgtx",
      "/usr/share/man/man1/imgtx.1.gz",
      "/lib/systemd/system/imgtx-recover.service",
      "imgtx.prom",
      "/usr/bin/qemu-img",
      "imgtx\n",
    ].join("\n"),
    stderr: "",
  });
});

debian.test("an upgrade leaves an open transaction, which the new version commits", () => {
  const { stdout, stderr } = onMachine(`
    ${installed("older")}
    ${WORKSPACE}
    imgtx txn begin --name open >/dev/null && imgtx snapshot -q vda b.qcow2
    ${installed("newer")}
    dpkg-query -W -f '\${Version}\\n' imgtx
    imgtx txn list -q | wc -l
    imgtx txn commit -q open && imgtx device show vda --json | grep -c b.qcow2`);
  expect({ stdout, stderr }).toEqual({ stdout: "0.1.0-1\n1\n2\n", stderr: "" });
});

debian.test("the recovery at boot ends what a kill left, with the rights of who owns the workspace", () => {
  const { stdout, stderr } = onMachine(`
    ${installed("newer")}
    ${WORKSPACE}
    chown -R nobody /srv/w
    echo /srv/w >> /etc/imgtx/workspaces
    runuser -u nobody -- strace -f -qq -o /dev/null -e trace=rename -e inject=rename:signal=KILL:when=4 imgtx snapshot vda b.qcow2 >/dev/null 2>&1 || echo killed
    /usr/lib/imgtx/recover-all; echo $?
    find /srv/w ! -user nobody; ls .imgtx/journal | wc -l
    ln -s /srv/w /srv/link; echo /srv/link > /tmp/linked; /usr/lib/imgtx/recover-all /tmp/linked; echo $?
    chown -Rh 54321:54321 /srv/w; /usr/lib/imgtx/recover-all /tmp/linked; echo $?; find /srv/w ! -user 54321
    echo /srv/none >> /etc/imgtx/workspaces; /usr/lib/imgtx/recover-all 2>/dev/null || echo $?`);
  expect({ stdout, stderr }).toEqual({
    stdout: `killed\n0\n0\n${"Nothing to recover.\n0\n".repeat(2)}Nothing to recover.\n14\n`,
    stderr: expect.stringMatching(/^imgtx: finished transaction \w+ \(snapshot vda\): .*\n$/) as string,
  });
});

debian.test("removed it leaves nothing but what is the operator's, and purged not that", () => {
  const { stdout, stderr } = onMachine(`
    list() { find /etc /usr /lib /var -xdev -name '*imgtx*' -o -path '/usr/local/bin/*' | sort; }
    rm -rf /var/lib/imgtx
    list > /tmp/before
    ${installed("newer")}
    ${WORKSPACE}
    update-alternatives --install /usr/local/bin/qemu-img qemu-img /usr/lib/imgtx/qemu-img 50 >/dev/null
    dpkg -r imgtx >/dev/null 2>&1; ls /etc/imgtx /srv/w
    dpkg -P imgtx >/dev/null 2>&1
    list | diff /tmp/before - | grep '^[<>]' || echo nothing is left`);
  expect({ stdout, stderr }).toEqual({
    stdout: "/etc/imgtx:\nworkspaces\n\n/srv/w:\na.qcow2\ndevices\nnothing is left\n",
    stderr: "",
  });
});

test("the licence of each package inside is in the copyright file", () => {
  const text = execFileSync(
    "bash",
    ["-c", `dpkg-deb --fsys-tarfile '${packages.newer}' | tar -xO ./usr/share/doc/imgtx/copyright`],
    { encoding: "utf8" },
  );
  for (const line of readFileSync(`${TOP}/dist/LICENSES.txt`, "utf8").split("\n").filter(Boolean))
    expect(text).toContain(line);
});
