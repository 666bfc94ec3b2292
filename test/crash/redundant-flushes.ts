// Flushes that no crash of any scenario misses, each with the reason why it is there all the same. The
// mutants' run fails for a flush that is redundant and not listed, and for one that is listed and needed.

export const REDUNDANT_FLUSHES: Readonly<Record<string, string>> = {
  "commit mark":
    "All that is redone behind the mark today is the table's move, which is atomic by itself and names its " +
    "transaction: a mark that is lost either undoes a move that did not happen, or is made up for by the table. " +
    "An action that redoes changes in an image rests on the mark alone, and so does the promise in the journal's page.",
};
