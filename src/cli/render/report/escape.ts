// Text in HTML and SVG. All that was read from anywhere goes through here: names of files, of devices and of snapshots are
// somebody's words, and perhaps a guest's.

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** As text between tags, or as a value in quotes. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? "");
}

/** As much of it as has room: its beginning and its end. */
export function shorten(text: string, characters: number): string {
  const all = Array.from(text);
  if (all.length <= characters) return text;
  const tail = Math.ceil((characters - 1) / 2);
  return `${all.slice(0, characters - 1 - tail).join("")}…${all.slice(-tail).join("")}`;
}
