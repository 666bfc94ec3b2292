// How much of the simulated disk `npm test` looks at. Bounded by counts, so that the same is tried on any machine;
// `npm run torture` tries all of it.

import { EXPLORE_ALL, type ExploreOptions } from "./explore.ts";

export const SLICE: ExploreOptions = {
  ...EXPLORE_ALL,
  limits: { exhaustiveItems: 5, randomSubsets: 16, most: 40 },
  nestedLimits: { exhaustiveItems: 3, randomSubsets: 2, most: 6 },
  nestedPoints: 10,
  depth: 2,
  nestEvery: 24,
  nestAlike: 1,
};
