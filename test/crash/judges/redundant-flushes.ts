// Flushes that no crash of any scenario misses, each with the reason why it is there all the same. The
// mutants' run fails for a flush that is redundant and not listed, and for one that is listed and needed.

export const REDUNDANT_FLUSHES: Readonly<Record<string, string>> = {
  "fence of a left image":
    "Without it a guest may write to what its device leaves, and the move waits for a command: guests.test.ts",
  "fences lifted":
    "Says what is durable in the images: without it recovery lifts them once more, and says so, after a refused commit",
  "left image":
    "Keeps in a snapshot what its guest has left to the page cache: no guest of the scenarios does, those of test/model do",
  "files of snapshots gone":
    "Keeps copies of files of a snapshot that went from coming back with a power cut: no device and no snapshot shows them then, gc lists them",
  "journal gone":
    "Keeps what is written to a left image after exit status 0 from being taken for older: guests.test.ts",
};
