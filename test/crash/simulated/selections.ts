// Which of the pending items reached the disk: the choices worth trying. All of them while they are
// few; else the kinds that find most: prefixes, all but one, only one, all but two, and random ones.

import type { Random } from "../../helpers/random.ts";

export interface SelectionLimits {
  /** Up to how many items every subset is tried. */
  readonly exhaustiveItems: number;
  /** Random subsets beyond the regular kinds, where not every subset is tried. */
  readonly randomSubsets: number;
  /** Never more than this many; a seeded choice of the rest, with none and all always among it. */
  readonly most: number;
}

export const FULL_LIMITS: SelectionLimits = { exhaustiveItems: 8, randomSubsets: 256, most: 4000 };

/** One byte an item, 1 where it reached the disk. */
export type Selection = Uint8Array;

type Recipe = (items: Selection) => void;

export function* selections(count: number, limits: SelectionLimits, random: Random): Generator<Selection> {
  const seen = new Set<string>();
  for (const recipe of chooseRecipes(count, limits, random)) {
    const items = new Uint8Array(count);
    recipe(items);
    const text = items.join("");
    if (seen.has(text)) continue;
    seen.add(text);
    yield items;
  }
}

function chooseRecipes(count: number, limits: SelectionLimits, random: Random): Recipe[] {
  const always: Recipe[] = [(items) => items.fill(0), (items) => items.fill(1)];
  const others = count <= limits.exhaustiveItems ? everySubset(count) : usualSubsets(count, limits, random);
  const room = limits.most - always.length;
  return [...always, ...(others.length > room ? pick(others, room, random) : others)];
}

function everySubset(count: number): Recipe[] {
  return Array.from({ length: 2 ** count }, (_, bits) => (items: Selection) => {
    for (let index = 0; index < count; index += 1) items[index] = (bits >> index) & 1;
  });
}

function usualSubsets(count: number, limits: SelectionLimits, random: Random): Recipe[] {
  const recipes: Recipe[] = [];
  for (let one = 0; one < count; one += 1) {
    recipes.push((items) => items.fill(1, 0, one));
    recipes.push((items) => items.fill(1).fill(0, one, one + 1));
    recipes.push((items) => items.fill(1, one, one + 1));
    for (let other = one + 1; other < count; other += 1) {
      recipes.push((items) =>
        items
          .fill(1)
          .fill(0, one, one + 1)
          .fill(0, other, other + 1),
      );
    }
  }
  for (let sample = 0; sample < limits.randomSubsets; sample += 1) {
    const seed = random.below(2 ** 31);
    recipes.push((items) => fillFromSeed(items, seed));
  }
  return recipes;
}

/** Sparse, even and dense subsets alike: the share of items that persist is drawn too. */
function fillFromSeed(items: Selection, seed: number): void {
  let state = seed | 1;
  const next = () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return state >>> 16;
  };
  const threshold = next() % 32_768;
  for (let index = 0; index < items.length; index += 1) items[index] = next() < threshold ? 1 : 0;
}

/** The first recipes are replaced by a random choice of all, without repeats. */
function pick(recipes: Recipe[], count: number, random: Random): Recipe[] {
  for (let index = 0; index < count; index += 1) {
    const other = index + random.below(recipes.length - index);
    [recipes[index], recipes[other]] = [recipes[other]!, recipes[index]!];
  }
  return recipes.slice(0, Math.max(0, count));
}
