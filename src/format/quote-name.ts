// Names that come out of an image are untrusted: a guest may have written them, control characters and
// all. Every message that repeats one takes it through here, so that it can neither steer a terminal nor
// add to a command that somebody copies from a hint.

// Controls, and the invisible and bidirectional marks that make one name look like another.
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\\]/gu;
const UNSHOWABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
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

/**
 * The name as one word of a shell command, which means the same bytes when it is pasted: what can't be shown is
 * written in the shell's own escapes, `$'a\nb'`. In octal, which every shell that knows them reads alike, whatever
 * its locale.
 */
export function shellQuote(name: string): string {
  if (PLAIN_WORD.test(name)) return name;
  if (name.search(UNSHOWABLE) === -1) return `'${name.replaceAll("'", "'\\''")}'`;
  const escaped = name
    .replaceAll(/['\\]/g, "\\$&")
    .replaceAll("\n", "\\n")
    .replaceAll(UNSHOWABLE, octalEscapes);
  return `$'${escaped}'`;
}

function octalEscapes(character: string): string {
  return [...new TextEncoder().encode(character)]
    .map((byte) => `\\${byte.toString(8).padStart(3, "0")}`)
    .join("");
}

// Not those of files, which are for no workspace, nor those that name one already, or are for one that the text tells of.
const COMMAND_OF_A_WORKSPACE =
  /`imgtx (?!-|(?:img|init|help|completion)\b|[^`]*` in the workspace of that transaction)/g;

/** The text with the workspace named in its commands that are for one: as they work from any folder. */
export function withWorkspaceNamed(text: string, root: string): string {
  return text.replaceAll(COMMAND_OF_A_WORKSPACE, (start) => `${start}--workspace ${shellQuote(root)} `);
}

/** The command that lists all names of a file, for a hint. */
export function howToFindNames(file: string): string {
  return `\`find "$(stat -c %m ${shellQuote(file)})" -xdev -samefile ${shellQuote(file)}\``;
}
