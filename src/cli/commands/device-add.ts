// imgtx device add NAME FILE

import { ImgtxError } from "../../errors/index.ts";
import type { ActionRequest } from "../../transaction/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { type Invocation, openSession, runOptions } from "../running/invocation.ts";
import { readProvisioner } from "./device-provision.ts";
import { OUTCOME } from "../running/outcomes.ts";

export const deviceAdd: ActionCommand = {
  kind: "action",
  standalone: true,
  createsWorkspace: true,
  definition: {
    arguments: [
      { name: "NAME", about: "the device's name, such as vda", optional: true, completes: "nothing" },
      { name: "FILE", about: "the image on top of its chain", optional: true, completes: "file" },
    ],
    options: [
      {
        long: "format",
        value: { name: "FORMAT", completes: ["qcow2", "raw"] },
        about: "format of FILE; raw is never guessed",
      },
      {
        long: "domain",
        value: { name: "NAME", completes: "file" },
        about:
          "a domain of libvirt's, or a file of its XML, or - for stdin: all its disks, by their names there",
      },
      {
        long: "provision",
        value: { name: "CMD", completes: "file" },
        about: "the command that makes and removes its volumes, as of `imgtx device provision`",
      },
    ],
    about:
      "Gives an image a device name. The image is opened with its whole chain, and not changed. Where " +
      "there is no workspace upwards from here, one is made in this folder. With --allow-path the folder " +
      "is trusted for raw backing images from then on. With --domain each disk of a guest of libvirt's " +
      "becomes a device, all of them or none; those that are devices already stay.",
    examples: [
      { command: "imgtx device add vda disk.qcow2", about: "the format is recognised" },
      { command: "imgtx device add vdb data.img --format raw", about: "a raw image has to be called raw" },
      {
        command: "imgtx device add vdc c.qcow2 --allow-path /srv/golden",
        about: "its raw backing image is in another folder",
      },
      { command: "imgtx device add --domain web1", about: "what `virsh dumpxml web1` names" },
    ],
    exits: CHANGING_EXITS,
  },
  instead: ({ input }) => (input.text("--domain") === undefined ? undefined : addDomain),
  request(input) {
    const [device, file] = [input.text("NAME"), input.text("FILE")];
    if (input.text("--domain") !== undefined)
      refuse("--domain is a command of its own, and no line of a batch");
    if (device === undefined || file === undefined) refuse("a name and a file are to be given, or --domain");
    const provision = input.text("--provision");
    return {
      kind: "device-add",
      device,
      file: input.resolve(file),
      format: input.text("--format"),
      allowPaths: input.allowPaths,
      ...(provision !== undefined && { provision: readProvisioner(provision, input) }),
    };
  },
};

async function addDomain(invocation: Invocation): Promise<number> {
  const { input, report } = invocation;
  if (["NAME", "--format", "--provision"].some((name) => input.text(name) !== undefined)) {
    refuse("--domain says names, files and formats, and nothing else goes with it");
  }
  const { readDomain } = await import("../domain/read-domain.ts");
  const disks = await readDomain(invocation, input.text("--domain") ?? "");
  const { engine, session } = await openSession(invocation, { createHere: true });
  const present = (await engine.describeDevices(session, undefined)).devices;
  const taken = disks.filter(({ why }) => why === undefined);
  for (const { target, why } of disks) if (why !== undefined) report.notice(`left out ${target}: ${why}`);
  if (taken.length === 0) {
    throw new ImgtxError("E_REFUSED", "the domain has no disk that is an image of this host", {
      hint: "`imgtx device add NAME FILE` takes an image by its name",
    });
  }
  const requests = taken.flatMap(({ target: device, path: file = "", format }): ActionRequest[] => {
    if (present.some(({ name, image }) => name === device && image === file)) return [];
    return [{ kind: "device-add", device, file, format, allowPaths: input.allowPaths }];
  });
  const outcome = await engine.runActions(session, requests, runOptions(invocation, true));
  report.done(outcome, OUTCOME);
  return 0;
}

function refuse(why: string): never {
  throw new ImgtxError("E_USAGE", why, { hint: "see `imgtx device add --help`" });
}
