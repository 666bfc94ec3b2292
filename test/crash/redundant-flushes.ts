// Flushes that no crash of any scenario misses, each with the reason why it is there all the same. The
// mutants' run fails for a flush that is redundant and not listed, and for one that is listed and needed.

export const REDUNDANT_FLUSHES: Readonly<Record<string, string>> = {};
