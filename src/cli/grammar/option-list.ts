// Lists with commas, as QEMU has them: a doubled comma is a comma.

export interface ListedOption {
  readonly name: string;
  /** Undefined where the name stands alone. */
  readonly value: string | undefined;
}

/** Of `name=value,name=value` and bare names. An empty text has none. */
export function parseOptionList(list: string): readonly ListedOption[] {
  if (list === "") return [];
  return splitAtCommas(list).map((item) => {
    const equals = item.indexOf("=");
    if (equals === -1) return { name: item, value: undefined };
    return { name: item.slice(0, equals), value: item.slice(equals + 1) };
  });
}

/** One item more than it has single commas. */
export function splitAtCommas(list: string): readonly string[] {
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
