// What a workspace that was moved leaves in its old folder: a record in the place of its table that says where it is. One
// name has the one or the other, so that a single rename decides which folder is the workspace.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import { isText, objectOf } from "./data-shape.ts";
import { openSealed, sealJson } from "./sealed-json.ts";

export interface MovedAway {
  readonly kind: typeof KIND;
  readonly version: typeof VERSION;
  /** The folder that is the workspace now. Absolute. */
  readonly to: string;
  readonly workspaceId: string;
}

const KIND = "imgtx workspace moved";
const VERSION = 1;
/** What follows the digest in it. */
const AFTER_DIGEST = `","table":{"kind":"${KIND}",`;
const DIGEST_END = '{"sha256":"'.length + 64;
/** A table that is longer is none. */
const LIMIT_BYTES = 16_384;

const isRecord = objectOf<{ to: string; workspaceId: string }>({ to: isText, workspaceId: isText });

export function encodeMovedAway(to: string, workspaceId: string): Uint8Array {
  return sealJson("table", JSON.stringify({ kind: KIND, version: VERSION, to, workspaceId }));
}

/** Undefined for all that is no such record, damaged tables among these. */
export function decodeMovedAway(bytes: Uint8Array): MovedAway | undefined {
  // Each table that is read is asked this, and most are none: one look at how it begins is enough for that.
  const after = bytes.subarray(DIGEST_END, DIGEST_END + AFTER_DIGEST.length);
  if (bytes.length > LIMIT_BYTES || new TextDecoder().decode(after) !== AFTER_DIGEST) return undefined;
  const parsed = openSealed("table", "a record of a moved workspace", bytes);
  if (typeof parsed === "string" || parsed["kind"] !== KIND || !isRecord(parsed)) return undefined;
  const { to, workspaceId } = parsed;
  return { kind: KIND, version: VERSION, to, workspaceId };
}

/** E_NO_WORKSPACE where the file that was read in the place of a table is such a record. */
export function assertNotMovedAway(bytes: Uint8Array, file: string): void {
  const moved = decodeMovedAway(bytes);
  if (!moved) return;
  const root = posix.dirname(posix.dirname(file));
  throw new ImgtxError("E_NO_WORKSPACE", `the workspace of ${root} was moved to ${moved.to}`, {
    image: root,
    hint: `\`imgtx --workspace ${shellQuote(moved.to)} status\` shows it`,
  });
}
