// The names that images store: what is missing, what means another file from elsewhere, and what breaks when a folder is
// moved. The files that they lead to are judged where they lie, by themselves.

import { posix } from "node:path";
import { unlessItFails } from "../../errors/index.ts";
import {
  composeBackingPath,
  identityOf,
  isInside,
  localFileOf,
  makeRelativeName,
  quoteName,
  shellQuote,
} from "../../format/index.ts";
import type { Lead, Patient } from "./census.ts";
import { type Finding, finding } from "./findings.ts";
import { sayRename, type Scene } from "./scene.ts";

export async function judgeNames(scene: Scene): Promise<Finding[]> {
  const found: Finding[] = [];
  for (const patient of scene.images) {
    const { backing, dataFile } = patient;
    if (backing) found.push(...(await judgeBacking(scene, patient, backing)));
    if (dataFile) found.push(...(await judgeDataFile(scene, patient, dataFile)));
  }
  return found;
}

async function judgeBacking(scene: Scene, patient: Patient, lead: Lead): Promise<Finding[]> {
  const { path } = patient;
  const { name, target } = lead;
  const shown = quoteName(name);
  if (lead.path === undefined || lead.why !== undefined) {
    if (lead.why === "nobody looked") return [];
    return [
      finding("backing-unusable", { path, text: `its backing file ${shown} can't be judged: ${lead.why}` }),
    ];
  }
  if (!target) return [await sayMissing(scene, patient, lead)];
  const { stat } = target.image;
  if (stat.kind !== "file" && stat.kind !== "device") {
    const what = stat.kind === "folder" ? "a folder" : "neither a file nor a disk";
    return [finding("backing-unusable", { path, text: `its backing file ${shown} is ${what}` })];
  }
  return [
    ...(await judgeFormat(scene, patient, { lead, target })),
    ...(await judgeAmbiguity(scene, patient, lead, target)),
    ...(await judgePlace(scene, patient, lead, target)),
  ];
}

async function sayMissing(
  scene: Scene,
  { path }: Patient,
  { name, format, path: at }: Lead,
): Promise<Finding> {
  const text = `its backing file ${quoteName(name)} is not there, at ${quoteName(at ?? "")}`;
  const namesakes = scene.census.patients.filter(
    (one) => one.isGiven && posix.basename(one.path) === posix.basename(name) && one.path !== path,
  );
  const [only, other] = namesakes;
  if (!only || other) return finding("backing-missing", { path, text });
  const found = only.image.probed ?? format;
  const near = await nearName(scene, path, only.path);
  return finding("backing-missing", {
    path,
    text: `${text}; the only file of that name is ${quoteName(only.path)}`,
    command: found === undefined ? null : sayRename(path, near, found),
  });
}

/** Relative, where that leads there. */
async function nearName({ storage }: Scene, overlay: string, image: string): Promise<string> {
  return (await unlessItFails(() => makeRelativeName(storage, posix.dirname(overlay), image))) ?? image;
}

async function judgeFormat(
  { storage }: Scene,
  { path }: Patient,
  { lead: { name, format }, target }: { readonly lead: Lead; readonly target: Patient },
): Promise<Finding[]> {
  const { probed, problem } = target.image;
  if (format !== undefined) {
    if (format === "qcow2" && probed !== "qcow2" && !problem) {
      const text = `its backing file ${quoteName(name)} is said to be qcow2, and does not look like it`;
      return [finding("backing-unusable", { path, text })];
    }
    return [];
  }
  const text = `it does not say the format of its backing file ${quoteName(name)}: QEMU and libvirt refuse that, or guess`;
  if (probed === "qcow2" && localFileOf(name) === undefined) {
    return [
      finding("format-missing", {
        path,
        text,
        command: sayRename(path, name, "qcow2"),
        mend: {
          image: path,
          format: "qcow2",
          isAlone: true,
          requestFor: (device) => ({
            kind: "rebase",
            device,
            onto: target.path,
            format: "qcow2",
            isUnsafe: true,
            isCompressed: false,
            isRelative: !posix.isAbsolute(name),
          }),
        },
      }),
    ];
  }
  // A person alone may call it raw, and a file from elsewhere nobody should.
  const isNear = isInside(await storage.realPath(target.path), posix.dirname(await storage.realPath(path)));
  const command = probed === undefined && !problem && isNear ? sayRename(path, name, "raw") : null;
  return [finding("format-missing", { path, text, command })];
}

/** Whether the same name means another file, or none, where the image is reached by another way. */
async function judgeAmbiguity(
  { storage, currentFolder }: Scene,
  patient: Patient,
  { name, format }: Lead,
  target: Patient,
): Promise<Finding[]> {
  const { path, others } = patient;
  const real = await storage.realPath(path);
  const targetFormat = format ?? target.image.probed;
  const command = sayRename(real, await storage.realPath(target.path), targetFormat);
  const local = localFileOf(name);
  if (local !== undefined && !posix.isAbsolute(local)) {
    const text = `its backing file ${quoteName(name)} is relative to the folder that a command is called in`;
    return [finding("name-ambiguous", { path, text, command })];
  }
  if (posix.isAbsolute(name)) return [];
  for (const other of new Set([...others, real])) {
    if (other === path) continue;
    const there = await unlessItFails(() => storage.stat(composeBackingPath(other, name, currentFolder)));
    if (there && identityOf(there) === identityOf(target.image.stat)) continue;
    const means = there ? "another file" : "no file";
    const text = `opened as ${quoteName(other)}, the same image, its backing file ${quoteName(name)} is ${means}`;
    return [finding("name-ambiguous", { path, text, command })];
  }
  return [];
}

async function judgePlace(
  scene: Scene,
  patient: Patient,
  { name, format }: Lead,
  target: Patient,
): Promise<Finding[]> {
  const { path } = patient;
  const { storage } = scene;
  const [real, at] = [await storage.realPath(path), await storage.realPath(target.path)];
  const folder = scene.folders.find((one) => isInside(real, one)) ?? posix.dirname(real);
  const found = format ?? target.image.probed;
  if (!isInside(at, folder)) {
    if (found !== "qcow2" || target.image.probed !== "qcow2") {
      // No command: pasted, it would copy a file of the host into an image that a guest may have pointed there.
      const text =
        `its raw backing image ${quoteName(at)} lies outside of ${quoteName(folder)}: a guest may have pointed it there, ` +
        "and imgtx follows it with --allow-path alone";
      return [finding("raw-outside", { path, text })];
    }
    return [
      finding("backing-outside", {
        path,
        text: `its backing image ${quoteName(at)} lies outside of ${quoteName(folder)}: it is not there where the folder is copied or moved alone`,
        command: `imgtx img rebase -f qcow2 -b '' ${shellQuote(path)}`,
      }),
    ];
  }
  if (!posix.isAbsolute(name)) return [];
  const near = await nearName(scene, real, at);
  if (posix.isAbsolute(near)) return [];
  return [
    finding("name-absolute", {
      path,
      text: `it names its backing image by an absolute path, ${quoteName(name)}, which breaks when the folder is moved`,
      command: sayRename(real, near, found),
    }),
  ];
}

async function judgeDataFile(scene: Scene, { path }: Patient, lead: Lead): Promise<Finding[]> {
  const { name, target } = lead;
  const shown = quoteName(name);
  if (lead.why === "nobody looked") return [];
  const found: Finding[] = [];
  if (!posix.isAbsolute(name)) {
    const text = `its data file ${shown} is relative to the folder that a command is called in, and not to the image`;
    const beside = posix.join(posix.dirname(path), name);
    const there = await scene.storage.stat(beside);
    // From there the name means the same file.
    const [folder, own] = [posix.dirname(path), posix.basename(path)].map(shellQuote);
    const stored = shellQuote(`data_file=${beside.replaceAll(",", ",,")}`);
    const command = there ? `cd ${folder ?? ""} && imgtx img amend -o ${stored} ./${own ?? ""}` : null;
    found.push(finding("data-file-ambiguous", { path, text, command }));
  }
  if (target) {
    const real = await scene.storage.realPath(target.path);
    const own = posix.dirname(await scene.storage.realPath(path));
    if (isInside(real, own)) return found;
    const text =
      `its data file ${quoteName(real)} lies in another folder: a copy of the image alone has no data; where a stranger ` +
      "made the image, it may lead to a file of the host";
    return [...found, finding("data-file-outside", { path, text })];
  }
  const isBeside =
    !posix.isAbsolute(name) && (await scene.storage.stat(posix.join(posix.dirname(path), name)));
  if (isBeside) return found;
  return [...found, finding("data-file-missing", { path, text: `its data file ${shown} is not there` })];
}
