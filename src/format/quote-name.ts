// Names that come out of an image are untrusted: a guest may have written them, control characters and
// all. Every message that repeats one quotes it through here, so that it can't steer a terminal.

// Controls, and the invisible and bidirectional marks that make one name look like another.
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}"\\]/gu;

/** The name in double quotes, with what a terminal or a reader may mistake written as an escape. */
export function quoteName(name: string): string {
  const safe = name.replace(UNSAFE, (character) => {
    if (character === '"' || character === "\\") return `\\${character}`;
    return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
  });
  return `"${safe}"`;
}
