// The answers that a QMP client reads: one line a command, in the order of the commands.

import { ImgtxError } from "../../../errors/index.ts";
import { printable } from "../../render/printable.ts";
import { drawJson, type JsonValue } from "./json.ts";
import { UnknownCommandError } from "./script.ts";

export type Id = JsonValue | undefined;

const NOTHING: JsonValue = new Map();

export function drawSuccess(id: Id): string {
  return drawAnswer("return", NOTHING, id);
}

/** The class is the one that a client of QEMU would branch on. */
export function drawFailure(error: unknown, id: Id): string {
  const body = new Map([
    ["class", classOf(error)],
    ["desc", printable(descriptionOf(error))],
  ]);
  return drawAnswer("error", body, id);
}

export function drawNotRun(why: string, id: Id): string {
  const body = new Map([
    ["class", "GenericError"],
    ["desc", `not run: ${why}`],
  ]);
  return drawAnswer("error", body, id);
}

function drawAnswer(name: "return" | "error", body: JsonValue, id: Id): string {
  const answer = new Map<string, JsonValue>([[name, body]]);
  if (id !== undefined) answer.set("id", id);
  return drawJson(answer);
}

function classOf(error: unknown): string {
  if (error instanceof UnknownCommandError) return "CommandNotFound";
  return error instanceof ImgtxError && error.code === "E_NO_DEVICE" ? "DeviceNotFound" : "GenericError";
}

/** What and where. Whether anything changed and how to mend it stand on stderr, as for every command. */
function descriptionOf(error: unknown): string {
  if (!(error instanceof ImgtxError)) {
    return `a bug in imgtx: ${error instanceof Error ? error.message : String(error)}`;
  }
  const { device, image, message } = error;
  const named = device === undefined || message.startsWith(`${device}: `) ? message : `${device}: ${message}`;
  return image === undefined || named.includes(image) ? named : `${named} (${image})`;
}
