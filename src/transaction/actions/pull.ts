// pull: what the images between a base and a device's active layer hold comes up into that, at the commit. It stands on
// the base then, or on nothing. The images in between stay as they are, and so does what others show of them.

import { ImgtxError } from "../../errors/index.ts";
import { type Action, assertNamedOnce, MAKES_NO_FILES, type Plan, type PlanContext } from "./plan/action.ts";
import { findLink } from "./plan/chain-entry.ts";
import {
  findStanding,
  joinStandings,
  nameAsBefore,
  noteOnStanding,
  planNewStanding,
  reportOf,
  type Standing,
} from "./plan/new-backing.ts";
import type { PullRequest } from "../requests/request.ts";

export const pull: Action<PullRequest> = {
  saying: { noun: "pull", done: "pulled", planned: "would be pulled" },
  takenBackBy: "nothing",
  mayDoNothing: true,
  async plan(request, context): Promise<Plan> {
    assertNamedOnce(request.devices);
    const parts = [];
    for (const device of request.devices) parts.push(await planOne(device, request, context));
    return { ...MAKES_NO_FILES, ...joinStandings(request.devices, parts) };
  },
};

async function planOne(device: string, { base }: PullRequest, context: PlanContext) {
  const standing = await findStanding(device, context);
  const { top, below, chain } = standing;
  const depth = base === undefined ? below.length : await findBase(standing, base, context);
  const chains = [{ device, chain }];
  if (depth === 0) {
    const report = reportOf("pull", standing, [noteOnStanding(below, true)], false);
    return { report, change: undefined, copies: [], chains };
  }
  const after = below.slice(depth);
  const [first] = after;
  const name = first && (await nameAsBefore(top, first, below[depth - 1], context));
  return {
    ...(await planNewStanding(
      "pull",
      standing,
      {
        below: after,
        name,
        leavesOutEqual: false,
        isCompressed: false,
        notes: [
          noteOnStanding(after, false),
          ...below.slice(0, depth).map(({ path: image }) => ({ code: "left below", image }) as const),
        ],
      },
      context,
    )),
    chains,
  };
}

/** How many images are above it, below the active layer. */
async function findBase(
  { entry: { name: device }, top, below }: Standing,
  base: string,
  context: Pick<PlanContext, "storage" | "canonicalPath">,
): Promise<number> {
  const { path, index } = await findLink(device, below, base, context);
  if (index >= 0) return index;
  throw new ImgtxError("E_REFUSED", `it does not stand on '${path}'`, {
    device,
    image: top.path,
    hint: "--base names an image below the active layer; `imgtx tree` shows them",
  });
}
