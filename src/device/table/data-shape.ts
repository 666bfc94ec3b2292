// What data from a file must look like before it is taken for what its type says. A checksum shows that a
// file is whole; it does not show that imgtx wrote it.
//
// Invariant: a shape says of a value what the type says, field by field: the compiler refuses one that forgets a
// field, allows less than the type or allows more.

/** Whether a value is a T. Not one of a part of T, nor of more than T: hence `in out`. */
export interface Shape<in out T> {
  (value: unknown): value is T;
}

/** The shape of a field that may be left out. JSON has no undefined, so a field that is there is a T. */
export interface AbsentOr<in out T> {
  (value: unknown): value is T | undefined;
}

type FieldShape<T, Name extends keyof T> =
  Partial<Pick<T, Name>> extends Pick<T, Name> ? AbsentOr<Exclude<T[Name], undefined>> : Shape<T[Name]>;

type FieldShapes<T> = { readonly [Name in keyof T]-?: FieldShape<T, Name> };

export const isText: Shape<string> = (value): value is string => typeof value === "string";
export const isFlag: Shape<boolean> = (value): value is boolean => typeof value === "boolean";
export const isCount: Shape<number> = (value): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

/** Undefined, which no shape takes, where the text is no JSON: a digest alone does not make it what imgtx wrote. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Any object, lists among them: what its fields hold is not said. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

export function orNull<T>(shape: Shape<T>): Shape<T | null> {
  return (value): value is T | null => value === null || shape(value);
}

export function orAbsent<T>(shape: Shape<T>): AbsentOr<T> {
  return (value): value is T | undefined => value === undefined || shape(value);
}

export function listOf<T>(shape: Shape<T>): Shape<readonly T[]> {
  return (value): value is readonly T[] => Array.isArray(value) && value.every(shape);
}

export function oneOf<const T extends string>(...texts: readonly T[]): Shape<T> {
  return (value): value is T => texts.some((text) => text === value);
}

/** An object that has these fields, each of its shape, and perhaps others. */
export function objectOf<T extends object>(fields: FieldShapes<T>): Shape<T> {
  const wanted = Object.entries<(value: unknown) => boolean>(fields).map(([name, shape]) => ({
    name,
    shape,
  }));
  return (value): value is T => {
    if (!isObject(value)) return false;
    // A table has thousands of these, and a loop takes a third of what a callback for each field does.
    for (const { name, shape } of wanted) if (!shape(value[name])) return false;
    return true;
  };
}
