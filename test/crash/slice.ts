// How much of the simulated disk `npm test` looks at. Bounded by counts, so that the same is tried on any machine;
// `npm run torture` tries all of it.

import { AWAY_ALL, type AwayOptions } from "./judges/away.ts";
import { EXPLORE_ALL, type ExploreOptions } from "./judges/explore.ts";
import { type GuestOptions, GUESTS_ALL } from "./judges/guests.ts";

export const SLICE: ExploreOptions = {
  ...EXPLORE_ALL,
  limits: { exhaustiveItems: 5, randomSubsets: 16, most: 24 },
  nestedLimits: { exhaustiveItems: 3, randomSubsets: 2, most: 4 },
  nestedPoints: 6,
  depth: 2,
  nestEvery: 24,
  nestedDeaths: 6,
  nestAlike: 1,
};

/** Of each step three crashes (of a long scenario two), one of them its end: of what is pending all is lost, or none. */
export const GUEST_SLICE: GuestOptions = {
  ...GUESTS_ALL,
  limits: { exhaustiveItems: 0, randomSubsets: 0, most: 2 },
  points: 3,
  ways: 1,
  cutsOfRecovery: 0,
};

/** The same of disks that are away. */
export const AWAY_SLICE: AwayOptions = {
  ...AWAY_ALL,
  limits: { exhaustiveItems: 0, randomSubsets: 0, most: 2 },
  points: 2,
};
