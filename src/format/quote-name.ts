// Names that come out of an image are untrusted: a guest may have written them, control characters and
// all. Every message that repeats one takes it through here, so that it can neither steer a terminal nor
// add to a command that somebody copies from a hint.

// Controls, and the invisible and bidirectional marks that make one name look like another.
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\\]/gu;
const PLAIN_WORD = /^[\w%+,./:=@-]+$/;

/** The text with what a terminal or a reader may mistake written as an escape. */
export function escapeName(text: string): string {
  return text.replace(UNSAFE, (character) =>
    character === "\\" ? "\\\\" : `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

/** The escaped name in double quotes. */
export function quoteName(name: string): string {
  return `"${escapeName(name).replaceAll('"', '\\"')}"`;
}

/** The name as one word of a shell command. */
export function shellQuote(name: string): string {
  return PLAIN_WORD.test(name) ? name : `'${escapeName(name).replaceAll("'", "'\\''")}'`;
}
