// What `imgtx init --adopt` tells, and when.

import { expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { runCli } from "../../helpers/cli/harness.ts";

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
          devices: [{ device: "vda", image: "/srv/guests/a.qcow2", format: "qcow2" }],
        }),
      openSession: async () => await Promise.reject(new ImgtxError("E_IO", "the disk fails")),
    },
  });
  expect(status).toBe(13);
  expect(stdout).toContain("Made /srv/guests a workspace of its own, at generation 3");
  expect(stdout).toContain("goes on: transaction abcdefghij");
});
