// Lists of `name=value,name=value`, as `-o` and `--image-opts` take them: a comma in a value is doubled, and
// a bare name is a switch (`lazy_refcounts` for on, `nolazy_refcounts` for off).

import { failure } from "./messages.ts";

export interface ListedOption {
  readonly name: string;
  /** Undefined where the name stands alone. */
  readonly value: string | undefined;
}

/** E_FAILED for the lists that qemu-img calls invalid: an empty one, a comma at an end. */
export function parseOptionLists(lists: readonly string[]): readonly ListedOption[] {
  for (const list of lists) {
    if (!isValidList(list)) throw failure(`Invalid option list: ${list}`);
  }
  return parseOptionList(lists.join(","));
}

/** A list on its own, without that check. */
export function parseOptionList(list: string): readonly ListedOption[] {
  return splitAtCommas(list).map((item) => {
    const equals = item.indexOf("=");
    if (equals === -1) return { name: item, value: undefined };
    return { name: item.slice(0, equals), value: item.slice(equals + 1) };
  });
}

/** `-o help` and `-o ?`, alone or in the list. */
export function asksForHelp(options: readonly ListedOption[]): boolean {
  return options.some(({ name, value }) => value === undefined && (name === "help" || name === "?"));
}

// A list that ends in single commas would swallow the one that is joined behind it.
function isValidList(list: string): boolean {
  const trailing = /,*$/.exec(list)?.[0].length ?? 0;
  return list !== "" && !list.startsWith(",") && trailing % 2 === 0;
}

function splitAtCommas(list: string): string[] {
  if (list === "") return [];
  const items: string[] = [];
  let item = "";
  for (let at = 0; at < list.length; at += 1) {
    if (list[at] !== ",") item += list[at];
    else if (list[at + 1] === ",") {
      item += ",";
      at += 1;
    } else {
      items.push(item);
      item = "";
    }
  }
  return [...items, item];
}
