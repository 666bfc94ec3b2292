// What the first words of commands of two words are about: `imgtx help txn` says it.

/** Under which `imgtx --help` lists the commands. */
export const SECTIONS = [
  "Workspace and devices",
  "Snapshots and the way back",
  "Changes to devices",
  "Transactions",
  "Images",
  "More",
] as const;
export type Section = (typeof SECTIONS)[number];

export interface GroupRow {
  readonly name: string;
  readonly about: string;
}

export const GROUPS: readonly GroupRow[] = [
  {
    name: "device",
    about:
      "A device is a name, such as vda, for the top of a chain of images. Commands and scripts speak of " +
      "devices; the device table says which image each one means now.",
  },
  {
    name: "internal-snapshot",
    about:
      "Internal snapshots are kept inside a qcow2 image, and share its clusters; `imgtx snapshot` puts an overlay " +
      "over it instead. Those of a group of devices are taken, applied and deleted for all of them or for none.",
  },
  {
    name: "bitmap",
    about:
      "Persistent bitmaps are kept inside a qcow2 image: in them QEMU marks what a guest writes, so that a backup " +
      "need not read all. Those of a group of devices change at one moment, for all of them or for none.",
  },
  {
    name: "txn",
    about:
      "Between begin and commit, actions join the open transaction and take effect together, or not at " +
      "all. A transaction outlives the commands in it, and a crash.",
  },
  {
    name: "img",
    about:
      "Works on image files, in the grammar of qemu-img: the same words, flags, output and exit statuses. " +
      "Linked under the name qemu-img, imgtx is this group alone.",
  },
  {
    name: "completion",
    about: "Prints a script that teaches a shell to complete imgtx's commands, options and devices.",
  },
];

export function findGroup(name: string | undefined): GroupRow | undefined {
  return GROUPS.find((group) => group.name === name);
}
