// How much of the simulated disk `npm test` looks at. Bounded by counts, so that the same is tried on any machine;
// `npm run torture` tries all of it.

import { AWAY_ALL, type AwayOptions } from "./judges/away.ts";
import { EXPLORE_ALL, type ExploreOptions } from "./judges/explore.ts";
import { type GuestOptions, GUESTS_ALL } from "./judges/guests.ts";

export const SLICE: ExploreOptions = {
  ...EXPLORE_ALL,
  limits: { exhaustiveItems: 4, randomSubsets: 6, most: 12 },
  nestedLimits: { exhaustiveItems: 3, randomSubsets: 2, most: 4 },
  nestedPoints: 6,
  depth: 2,
  nestEvery: 24,
  nestedDeaths: 6,
  nestAlike: 1,
};

/**
 * Of what is pending all is lost, or none. Each flush that one crash misses is missed by that as well, where it is
 * taken out of all scenarios in turn, but for those of `BY_CHOICE` (simulated.test.ts).
 */
export const SLICE_OF_ONE_CRASH: ExploreOptions = {
  ...SLICE,
  depth: 1,
  limits: { ...SLICE.limits, most: 2 },
};

/**
 * Of what is pending all is lost, or none. Torture has every choice of it, at every call of every step, with each guest
 * at each place, and every call of the recovery after that.
 */
export const GUEST_SLICE: GuestOptions = {
  ...GUESTS_ALL,
  limits: { exhaustiveItems: 0, randomSubsets: 0, most: 2 },
  ways: 1,
  cutsOfRecovery: 0,
};

/** The same of disks that are away. */
export const AWAY_SLICE: AwayOptions = {
  ...AWAY_ALL,
  limits: { exhaustiveItems: 0, randomSubsets: 0, most: 2 },
};

/** Of each step at most so many crashes, each amid a phase that no earlier step like it was cut off in. */
export const PHASES_OF_STEP = 1;

/** Of steps that come to wait with a part of them done: what waits is not written anew by each command. */
export const PHASES_OF_WAITING = 8;
