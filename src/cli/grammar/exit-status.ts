// The exit statuses, as help prints them. The numbers are a contract; errors carry them.

export const EXIT_MEANINGS: Readonly<Record<number, string>> = {
  0: "done, and durable",
  1: "failed; a message says why",
  10: "locked or busy: somebody has the image or the workspace",
  11: "a transaction stands in the way, or there is none",
  12: "unsupported image or feature",
  13: "I/O error or no space; rolled back",
  14: "refused, nothing changed",
  15: "corrupt image or journal; nothing changed",
  16: "committed and durable, not finished; the next command goes on",
  64: "usage error",
  130: "interrupted (143: terminated); rolled back",
};

/** Statuses of a command that only looks. It runs recovery before, hence I/O errors and 16. */
export const READING_EXITS: readonly number[] = [0, 1, 10, 13, 14, 15, 16, 64, 130];
/** Statuses of a command that changes something. */
export const CHANGING_EXITS: readonly number[] = [0, 1, 10, 11, 12, 13, 14, 15, 16, 64, 130];
/** Statuses of a command that opens no workspace. */
export const PRINTING_EXITS: readonly number[] = [0, 1, 64];

/** Whether a command that ends with these only looks: there is nothing that it could roll back. */
export function areOfLooking(exits: readonly number[]): boolean {
  return exits.every((status) => status === 11 || READING_EXITS.includes(status));
}
