// What `imgtx init --adopt` tells, and when.

import { cpSync, rmSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { runCli } from "../../helpers/cli/harness.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

test("an adoption is told before recovery goes on from there, which may move its devices, or fail", async () => {
  const { status, stdout } = await runCli(["init", "--adopt"], {
    engine: {
      adoptWorkspace: async () =>
        await Promise.resolve({
          root: "/srv/guests",
          changed: true,
          generation: 3,
          forgotten: [],
          kept: ["abcdefghij"],
          devices: [{ device: "vda", image: "/srv/guests/a.qcow2", format: "qcow2", overlays: [] }],
        }),
      openSession: async () => await Promise.reject(new ImgtxError("E_IO", "the disk fails")),
    },
  });
  expect(status).toBe(13);
  expect(stdout).toContain("Made /srv/guests a workspace of its own, at generation 3");
  expect(stdout).toContain("goes on: transaction abcdefghij");
});

test("an adoption of an older state names what stands on its devices' images, with the command that goes there", async () => {
  const cwd = makeFolder();
  const well = async (line: string): Promise<string> => {
    const { status, stdout, stderr } = await runCli(line.split(" "), { cwd });
    expect({ line, status, stderr }).toEqual({ line, status: 0, stderr: expect.any(String) as string });
    return stdout;
  };
  for (const name of ["a", "b"]) {
    writeFileSync(
      `${cwd}/${name}.qcow2`,
      sampleQcow2({ virtualSizeBytes: 65_536, dataClusters: [0], seed: 1 }),
    );
    await well(`device add vd${name} ${name}.qcow2`);
  }
  cpSync(`${cwd}/.imgtx`, `${cwd}/backup`, { recursive: true, preserveTimestamps: true });
  await well("snapshot vda a1.qcow2");
  rmSync(`${cwd}/.imgtx`, { recursive: true });
  cpSync(`${cwd}/backup`, `${cwd}/.imgtx`, { recursive: true, preserveTimestamps: true });
  const { devices } = JSON.parse(await well("init --adopt --dry-run --json")) as { devices: object[] };
  expect(devices).toMatchObject([{ overlays: [`${cwd}/a1.qcow2`] }, { overlays: [] }]);
  const [, goThere = "nothing"] =
    /a1\.qcow2 stands on that, .*`imgtx (.*)`/.exec(await well("init --adopt")) ?? [];
  await well(goThere);
  expect(await well("device list")).toContain("a1.qcow2");
});
