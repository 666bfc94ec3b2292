// The actions of bitmaps, by the names that QMP has for them. imgtx keeps persistent ones alone: another one goes with
// the process that has it.

import type { BitmapRequest, BitmapSource } from "../../../transaction/index.ts";
import type { JsonValue } from "./json.ts";
import { Members, misused, refused } from "./members.ts";
import type { ActionReader, Scope } from "./scope.ts";
import type { Step } from "./steps.ts";

const GRANULARITY_BYTES_MIN = 512;
const GRANULARITY_BYTES_MAX = 2 ** 31;

function step(kind: BitmapRequest["kind"], device: string, rest: Partial<BitmapRequest>): Step[] {
  const request = { kind, devices: [device], bitmap: "", isDisabled: false, sources: [], ...rest };
  return [{ kind: "request", request }];
}

const add: ActionReader = (data, scope) => {
  const device = scope.device(data, "node");
  const bitmap = data.name("name");
  const granularityBytes = data.count("granularity");
  if (granularityBytes !== undefined && !isGranularity(granularityBytes)) {
    throw misused(data.at("granularity"), "Granularity must be power of 2 and at least 512");
  }
  const isDisabled = data.flag("disabled") ?? false;
  if (data.flag("persistent") !== true) {
    throw refused(data.at("persistent"), "a bitmap that is not persistent would go with this command", {
      hint: 'say "persistent": true',
    });
  }
  return step("bitmap-add", device, { bitmap, granularityBytes, isDisabled });
};

function isGranularity(bytes: number): boolean {
  return (
    bytes >= GRANULARITY_BYTES_MIN && bytes <= GRANULARITY_BYTES_MAX && Number.isInteger(Math.log2(bytes))
  );
}

function verb(kind: BitmapRequest["kind"]): ActionReader {
  return (data, scope) => step(kind, scope.device(data, "node"), { bitmap: data.name("name") });
}

const merge: ActionReader = (data, scope) => {
  const device = scope.device(data, "node");
  const bitmap = data.name("target");
  const sources = data.list("bitmaps").map((one, index) => {
    return readSource(one, `${data.at("bitmaps")}[${index}]`, scope);
  });
  if (sources.length === 0) throw misused(data.at("bitmaps"), "is empty");
  return step("bitmap-merge", device, { bitmap, sources });
};

/** The name of one of the same node, or an object that names the node too. */
function readSource(value: JsonValue, place: string, scope: Scope): BitmapSource {
  if (typeof value === "string") return { bitmap: value };
  const source = new Members(value, place);
  const device = scope.device(source, "node");
  const bitmap = source.name("name");
  source.finish();
  return { bitmap, device };
}

export const BITMAP_READERS: Readonly<Record<string, ActionReader>> = {
  "block-dirty-bitmap-add": add,
  "block-dirty-bitmap-remove": verb("bitmap-remove"),
  "block-dirty-bitmap-clear": verb("bitmap-clear"),
  "block-dirty-bitmap-enable": verb("bitmap-enable"),
  "block-dirty-bitmap-disable": verb("bitmap-disable"),
  "block-dirty-bitmap-merge": merge,
};
