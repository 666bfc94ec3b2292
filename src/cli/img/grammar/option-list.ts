// Lists of `name=value,name=value` as `-o` takes them: a bare name is a switch (`lazy_refcounts` for on,
// `nolazy_refcounts` for off).

import { type ListedOption, parseOptionList } from "../../grammar/option-list.ts";
import { failure } from "./messages.ts";

/** E_FAILED for the lists that qemu-img calls invalid: an empty one, a comma at an end. */
export function parseOptionLists(lists: readonly string[]): readonly ListedOption[] {
  for (const list of lists) {
    if (!isValidList(list)) throw failure(`Invalid option list: ${list}`);
  }
  return parseOptionList(lists.join(","));
}

/** `-o help` and `-o ?`, alone or in the list. */
export function asksForHelp(options: readonly ListedOption[]): boolean {
  return options.some(({ name, value }) => value === undefined && (name === "help" || name === "?"));
}

// A list that ends in single commas would swallow the one that is joined after it.
function isValidList(list: string): boolean {
  const trailing = /,*$/.exec(list)?.[0].length ?? 0;
  return list !== "" && !list.startsWith(",") && trailing % 2 === 0;
}
