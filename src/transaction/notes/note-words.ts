// Words that several notes have in common, and refusals with them.

import {
  type BitmapFault,
  describeDoubt,
  type Fingerprint,
  type ImageFormat,
  shellQuote,
} from "../../format/index.ts";

/** `7f3k2m9qa1 (nightly)`: by what imgtx calls it, and what somebody has named it. */
export function withName(id: string, name: string | null): string {
  return name === null ? id : `${id} (${name})`;
}

export type Fault = BitmapFault | "not kept" | "other layer" | "not renewed" | "changed below";

/** Why a bitmap's marks may not be all that was written. */
export const FAULTS: Readonly<Record<Fault, (name: string) => string>> = {
  raw: () => "an image of format raw has no bitmaps",
  stale: () => "a program that does not know bitmaps wrote to the image, and its bitmaps are stale",
  missing: (name) => `the image has no bitmap ${name}`,
  "in use": (name) => `bitmap ${name} is inconsistent: its last writer did not save it`,
  disabled: (name) => `bitmap ${name} is disabled: changes may have passed it by`,
  "extra data": (name) => `bitmap ${name} has extra data that imgtx does not know`,
  "other size": (name) => `bitmap ${name} covers a disk of another size`,
  tampered: (name) => `somebody other than a guest changed bitmap ${name}`,
  "not kept": () => "no bitmap was kept",
  "other layer": () => "the active layer is another image now",
  "not renewed": (name) => `bitmap ${name} was not made anew when the mirror was brought in sync`,
  "changed below": () => "the images below have changed",
};

export interface Kept {
  readonly what: "frozen" | "not frozen" | "mirror's content" | "mirrored" | "not mirrored";
  readonly device: string;
  readonly image: string;
}

interface Seen {
  readonly image: string;
  readonly before: Fingerprint;
  readonly now: Fingerprint;
}

/** What a rollback leaves as it is, and what takes it back. */
export function sayKept({ what, device, image }: Kept): {
  readonly text: string;
  readonly command: string | undefined;
} {
  switch (what) {
    case "frozen":
      return { text: `'${device}' stays frozen`, command: `imgtx unfreeze ${device}` };
    case "not frozen":
      return { text: `'${device}' is not frozen again`, command: `imgtx freeze ${device}` };
    case "mirror's content":
      return { text: `the mirror of '${device}' keeps what was copied to it since`, command: undefined };
    case "mirrored":
      return { text: `${image} stays the mirror of '${device}'`, command: `imgtx mirror --cancel ${device}` };
    case "not mirrored":
      return {
        text: `${image} is not the mirror of '${device}' again`,
        command: `imgtx mirror ${device} ${shellQuote(image)} --reuse`,
      };
  }
}

/** What has no place for a fence. */
export function sayFenceless(format: ImageFormat): string {
  return format === "raw" ? "a raw image" : "a qcow2 image of version 2";
}

export function howToFlatten(device: string): string {
  return `\`imgtx pull ${device}\` makes one image of it`;
}

export function sayDoubt({ image, before, now }: Seen): string {
  return `whether somebody wrote to ${image} can't be told from its times (${describeDoubt(before, now)})`;
}
