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
  "folder of volumes":
    "Keeps the record of a volume, by which it goes with its layer: without it the volume stays, with nothing on it: provision.test.ts",
  "volume to be made": "The same: a record that is torn counts for nothing",
  "name of a volume to be made": "The same",
  "record of a volume gone":
    "Keeps a record from coming back with a power cut: its volume is not there, or no volume with its tag is",
  "journal gone":
    "Keeps what is written to a left image after exit status 0 from being taken for older: guests.test.ts",
};
