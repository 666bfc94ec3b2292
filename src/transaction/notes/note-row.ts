// What a note is made of: fields of a shape, and the sentence that says them.

import { isFingerprint, isObject, isText, type Shape } from "../../device/index.ts";

export interface Row<in out Fields> {
  readonly isShaped: Shape<Fields>;
  say(fields: Fields): string;
}

export function row<Fields extends object>(
  fields: { readonly [Name in keyof Fields]: Shape<Fields[Name]> },
  say: (fields: Fields) => string,
): Row<Fields> {
  const wanted = Object.entries<(value: unknown) => boolean>(fields);
  const isShaped = (value: unknown): value is Fields =>
    isObject(value) && wanted.every(([name, shape]) => shape(value[name]));
  return { isShaped, say };
}

export const IMAGE = { image: isText };
export const DEVICE = { device: isText };
export const BOTH = { ...IMAGE, ...DEVICE };
export const FINGERPRINTS = { ...IMAGE, before: isFingerprint, now: isFingerprint };
