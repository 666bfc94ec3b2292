// What convert takes, as data.

import type { CommandDefinition } from "../../grammar/definition.ts";
import {
  cacheOption,
  forceShareOption,
  FORMAT_WORDS,
  formatOption,
  imageOptsOption,
  objectOption,
  progressOption,
  quietOption,
  sourceCacheOption,
} from "../grammar/options.ts";

export const CONVERT_DEFINITION: CommandDefinition = {
  arguments: [
    {
      name: "FILENAME",
      about: "the image to read; several are put one after the other",
      variadic: true,
      completes: "file",
    },
    { name: "OUTPUT_FILENAME", about: "the image to make; an existing file is emptied", completes: "file" },
  ],
  options: [
    objectOption,
    { ...imageOptsOption, newer: ["source-image-opts"] },
    { long: "target-image-opts", about: "the target is a list of options; with -n only" },
    { long: "target-is-zero", about: "with -n: the target reads as zeros already" },
    { long: "bitmaps", about: "copy persistent bitmaps" },
    { long: "skip-broken-bitmaps", about: "with --bitmaps: leave out those that are inconsistent" },
    { ...forceShareOption, about: "read the sources even while others write them" },
    {
      short: "C",
      newer: ["copy-range-offloading"],
      about: "copy data inside the kernel, zeros in it included",
    },
    { short: "c", newer: ["compress"], about: "compress every cluster" },
    progressOption,
    quietOption,
    { short: "n", newer: ["no-create"], about: "the target is there already: write into it" },
    { ...formatOption, newer: ["source-format"], about: "the sources' format; else it is recognised" },
    { ...cacheOption, newer: ["target-cache"] },
    { ...sourceCacheOption, newer: ["source-cache"] },
    {
      short: "O",
      newer: ["target-format", "output-format"],
      value: { name: "OUTPUT_FMT", completes: FORMAT_WORDS },
      about: "the target's format; raw by default",
    },
    {
      short: "B",
      newer: ["b", "backing"],
      value: { name: "BACKING_FILE", completes: "file" },
      about: "the target's backing image, which holds what the source's holds",
    },
    {
      short: "F",
      newer: ["backing-format"],
      value: { name: "BACKING_FMT", completes: FORMAT_WORDS },
      about: "the backing image's format",
    },
    {
      short: "o",
      newer: ["target-format-options", "target-options", "options"],
      value: { name: "OPTIONS", completes: "nothing" },
      repeatable: true,
      about: "options of the target's format, as name=value,name=value; -o help lists them",
    },
    {
      short: "l",
      newer: ["snapshot", "source-snapshot"],
      value: { name: "SNAPSHOT_PARAM", completes: "nothing" },
      about: "read an internal snapshot: its id or name, or snapshot.id=ID, snapshot.name=NAME",
    },
    {
      short: "S",
      newer: ["sparse-size"],
      value: { name: "SPARSE_SIZE", completes: "nothing" },
      about: "leave out zeros from this many bytes on, 4k by default; 0 writes everything",
    },
    {
      short: "r",
      newer: ["rate-limit", "rate"],
      value: { name: "RATE_LIMIT", completes: "nothing" },
      about: "bytes a second at most",
    },
    {
      short: "m",
      newer: ["parallel"],
      value: { name: "NUM_COROUTINES", completes: "nothing" },
      about: "requests at once, 1 to 16; more than four make nothing faster",
    },
    { short: "W", newer: ["oob-writes"], about: "write as data comes, not in order" },
    { long: "salvage", about: "zeros for what can't be read, with a warning each" },
  ],
  about:
    "Copies the guest data of images into a new one, of any format. On a file system that shares blocks, raw " +
    "to raw shares them. What an interrupted conversion has made is taken away.",
  examples: [
    { command: "imgtx img convert -O qcow2 disk.raw disk.qcow2", about: "raw to qcow2" },
    { command: "imgtx img convert -c -O qcow2 disk.qcow2 small.qcow2", about: "compressed" },
    {
      command: "imgtx img convert -p -l before disk.qcow2 old.raw",
      about: "what an internal snapshot holds",
    },
  ],
  exits: [0, 1, 130],
  exitMeanings: {
    0: "converted",
    1: "failed; what it made is removed, and a file that was there is empty, or as it was",
    130: "interrupted (143: terminated); the same",
  },
};
