// A batch in the JSON of QMP's `transaction` command: the whole command, its arguments, or the bare list
// of its actions.
//
// Invariant: nothing is left unread. A type or a member that imgtx does not carry out is refused by name.

import { ImgtxError } from "../../errors/index.ts";
import type { ActionRequest } from "../../transaction/index.ts";
import { absolutePath } from "../grammar/path.ts";

type JsonObject = Readonly<Record<string, unknown>>;

export function readQmp(text: string, cwd: string): ActionRequest[] {
  const actions = findActions(parseJson(text));
  return actions.map((action, index) => readAction(action, `actions[${index}]`, cwd));
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ImgtxError("E_USAGE", `the batch is not JSON: ${reason}`, { cause: error });
  }
}

function findActions(root: unknown): readonly unknown[] {
  if (Array.isArray(root)) return root;
  let holder = asObject(root, "the batch");
  if ("execute" in holder) {
    if (holder["execute"] !== "transaction") {
      throw new ImgtxError("E_UNSUPPORTED", `execute: ${shown(holder["execute"])} is not supported`, {
        hint: 'only {"execute": "transaction", …} is',
      });
    }
    refuseOthers(holder, ["execute", "arguments", "id"], "the command");
    holder = asObject(holder["arguments"], "arguments");
  }
  refuseOthers(holder, ["actions", "properties"], "arguments");
  checkProperties(holder["properties"]);
  const actions = holder["actions"];
  if (!Array.isArray(actions)) throw new ImgtxError("E_USAGE", "actions: not a list");
  return actions;
}

/** `individual` is QEMU's default; `grouped` is about jobs, which a batch has none of. */
function checkProperties(properties: unknown): void {
  if (properties === undefined) return;
  const { "completion-mode": mode, ...others } = asObject(properties, "properties");
  refuseOthers(others, [], "properties");
  if (mode !== undefined && mode !== "individual") {
    throw new ImgtxError("E_UNSUPPORTED", `properties: completion-mode ${shown(mode)} is not supported`);
  }
}

function readAction(value: unknown, place: string, cwd: string): ActionRequest {
  const action = asObject(value, place);
  const { type } = action;
  if (type === "abort") {
    refuseOthers(action, ["type", "data"], place);
    refuseOthers(asObject(action["data"] ?? {}, `${place}.data`), [], `${place}.data`);
    return { kind: "refuse", device: undefined };
  }
  if (type === "blockdev-snapshot-sync") {
    refuseOthers(action, ["type", "data"], place);
    return readSnapshot(asObject(action["data"], `${place}.data`), `${place}.data`, cwd);
  }
  throw new ImgtxError("E_UNSUPPORTED", `${place}: type ${shown(type)} is not supported`, {
    hint: "imgtx knows blockdev-snapshot-sync and abort",
  });
}

function readSnapshot(data: JsonObject, place: string, cwd: string): ActionRequest {
  refuseOthers(data, ["device", "node-name", "snapshot-file", "format", "mode"], place);
  const device = optionalText(data, "device", place);
  const node = optionalText(data, "node-name", place);
  if ((device === undefined) === (node === undefined)) {
    throw new ImgtxError("E_USAGE", `${place}: one of device and node-name names the device`);
  }
  const mode = optionalText(data, "mode", place) ?? "absolute-paths";
  if (mode !== "absolute-paths" && mode !== "existing") {
    throw new ImgtxError("E_USAGE", `${place}: mode '${mode}' is neither absolute-paths nor existing`);
  }
  const file = optionalText(data, "snapshot-file", place);
  if (file === undefined || file === "") {
    throw new ImgtxError("E_USAGE", `${place}: snapshot-file is missing`);
  }
  return {
    kind: "snapshot",
    targets: [
      {
        device: device ?? node ?? "",
        file: absolutePath(cwd, file),
        format: optionalText(data, "format", place) ?? "qcow2",
      },
    ],
    relative: false,
    reuse: mode === "existing",
    overlay: {},
  };
}

function optionalText(data: JsonObject, key: string, place: string): string | undefined {
  const value = data[key];
  if (value === undefined || typeof value === "string") return value;
  throw new ImgtxError("E_USAGE", `${place}: ${key} is not a string`);
}

function refuseOthers(object: JsonObject, known: readonly string[], place: string): void {
  const unknown = Object.keys(object).find((key) => !known.includes(key));
  if (unknown !== undefined) {
    throw new ImgtxError("E_UNSUPPORTED", `${place}: member '${unknown}' is not supported`);
  }
}

function asObject(value: unknown, place: string): JsonObject {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw new ImgtxError("E_USAGE", `${place}: not an object`);
}

function shown(value: unknown): string {
  return typeof value === "string" ? `'${value}'` : (JSON.stringify(value) ?? "none");
}
