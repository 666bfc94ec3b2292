// As much of JSON Schema as schemas/ uses. What a schema has beyond that is an error, so that nothing counts as checked that
// was not.

interface Schema {
  readonly [keyword: string]: unknown;
}

const CHECKED = new Set(
  "$ref const enum anyOf type properties required additionalProperties items minimum description".split(" "),
);

/** What of the value is not as the schema has it, a sentence each. */
export function findFaults(value: unknown, schema: Schema, root: Schema, at = "$"): string[] {
  for (const keyword of Object.keys(schema))
    if (!CHECKED.has(keyword)) return [`${at}: nobody checks ${keyword}`];
  const { $ref, anyOf, type, minimum } = schema;
  if (typeof $ref === "string") {
    const found =
      $ref.replace("#/$defs/", "") in defsOf(root) ? defsOf(root)[$ref.replace("#/$defs/", "")] : undefined;
    return found ? findFaults(value, found, root, at) : [`${at}: ${$ref} is not there`];
  }
  if (Array.isArray(anyOf)) {
    const all = anyOf.map((one: Schema) => findFaults(value, one, root, at));
    return all.some((faults) => faults.length === 0) ? [] : (all[0] ?? []);
  }
  if ("const" in schema && value !== schema["const"]) return [`${at}: is not ${String(schema["const"])}`];
  if (Array.isArray(schema["enum"]) && !schema["enum"].includes(value))
    return [`${at}: ${String(value)} is none of the enum`];
  if (typeof type === "string" && !isOfType(value, type))
    return [`${at}: ${JSON.stringify(value)} is no ${type}`];
  if (typeof minimum === "number" && Number(value) < minimum) return [`${at}: less than ${minimum}`];
  if (Array.isArray(value)) {
    return value.flatMap((one: unknown, index) =>
      findFaults(one, (schema["items"] ?? {}) as Schema, root, `${at}[${index}]`),
    );
  }
  return typeof value === "object" && value !== null ? findFaultsOfObject(value, schema, root, at) : [];
}

export function defsOf(root: Schema): Readonly<Record<string, Schema>> {
  return root["$defs"] as Readonly<Record<string, Schema>>;
}

function findFaultsOfObject(value: object, schema: Schema, root: Schema, at: string): string[] {
  const properties = (schema["properties"] ?? {}) as Readonly<Record<string, Schema>>;
  const required = (schema["required"] ?? []) as readonly string[];
  return [
    ...required.filter((key) => !(key in value)).map((key) => `${at}: ${key} is missing`),
    ...Object.entries(value).flatMap(([key, one]) => {
      const own = properties[key];
      if (own) return findFaults(one, own, root, `${at}.${key}`);
      return schema["additionalProperties"] === false ? [`${at}: nobody knows ${key}`] : [];
    }),
  ];
}

function isOfType(value: unknown, type: string): boolean {
  if (type === "integer") return Number.isInteger(value);
  if (type === "array") return Array.isArray(value);
  if (type === "null") return value === null;
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  return typeof value === type;
}
