// What all judgements of an examination look at: the images, and the workspaces that have devices on them.

import type { DeviceEntry } from "../../device/index.ts";
import { identityOf, isNamedRaw, shellQuote } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";
import type { Census, Patient } from "./census.ts";
import type { Ward } from "./wards.ts";

/** What a domain says of its disks, by the identities of their files. */
export interface Guest {
  /** Those that it can't write to. */
  readonly readOnly: ReadonlySet<string>;
  /** As which format it has each; undefined: it does not say, which is raw for libvirt. */
  readonly formats: ReadonlyMap<string, string | undefined>;
}

export interface Scene {
  readonly storage: Storage;
  readonly currentFolder: string;
  readonly census: Census;
  /** All files that were asked for. */
  readonly given: readonly Patient[];
  /** Those of them that speak for themselves: what somebody calls raw has no header, whatever its bytes look like. */
  readonly images: readonly Patient[];
  /** The guest that has them for its disks; undefined: nobody was spoken of. */
  readonly guest: Guest | undefined;
  readonly wards: readonly Ward[];
  /** Folders that were asked for, by their real paths. */
  readonly folders: readonly string[];
}

/** Who says that an image is raw, or holds another one's data, as a clause; undefined: nobody. */
export function whoCallsItRaw(patient: Patient, wards: readonly Ward[]): string | undefined {
  const { path, image, overlays, isDataFile } = patient;
  if (overlays.some((one) => one !== patient && one.backing?.format === "raw"))
    return "an overlay says that it is raw";
  const identity = identityOf(image.stat);
  if (wards.some(({ raw }) => raw.has(identity))) return "the device table says that it is raw";
  if (isDataFile) return "an image keeps its data in it";
  return isNamedRaw(path) ? "its name says that it is raw" : undefined;
}

/** The device whose active layer an image is. */
export function deviceOn(
  { wards }: Scene,
  { image: { stat } }: Patient,
): { readonly root: string; readonly entry: DeviceEntry } | undefined {
  for (const { root, active } of wards) {
    const entry = active.get(identityOf(stat));
    if (entry) return { root, entry };
  }
  return undefined;
}

/** What stores another backing file name in an image, and touches nothing else. */
export function sayRename(overlay: string, name: string, format: string | undefined): string {
  const stated = format === undefined ? [] : ["-F", shellQuote(format)];
  return ["imgtx img rebase -u -b", shellQuote(name), ...stated, shellQuote(overlay)].join(" ");
}
