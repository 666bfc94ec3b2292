// A file system of its own for one test, in a file: of a kind, mounted, cut off from power, mounted again.

import { spawnSync } from "node:child_process";
import { closeSync, copyFileSync, ftruncateSync, mkdirSync, openSync } from "node:fs";
import path from "node:path";
import koffi from "koffi";
import { onTestFinished } from "vitest";
import { findingLoop } from "./finding-loop.ts";

/** Programs that make an empty file system; the file follows. */
const MAKE_FILE_SYSTEM = {
  ext4: ["mkfs.ext4", "-q", "-F"],
  /** Inodes without room for birth times, and for parts of a second. */
  "ext4 with small inodes": ["mkfs.ext4", "-q", "-F", "-I", "128"],
  xfs: ["mkfs.xfs", "-q", "-f"],
  btrfs: ["mkfs.btrfs", "-q", "-f"],
} as const;

export type FileSystemName = keyof typeof MAKE_FILE_SYSTEM;

/** The smallest that mkfs.xfs takes. */
const DISK_BYTES = 320 * 2 ** 20;
const SHUTDOWN = 0x8004587d;
const WITHOUT_LOG = Uint32Array.of(2);

export class LoopDisk {
  readonly mountPoint: string;
  readonly #image: string;
  readonly #options: string;

  private constructor(image: string, options: string) {
    this.#image = image;
    this.#options = options;
    this.mountPoint = `${image}.mnt`;
    mkdirSync(this.mountPoint);
    this.#mount();
    onTestFinished(() => {
      spawnSync("umount", ["--lazy", this.mountPoint]);
    });
  }

  static make(folder: string, name: string, kind: FileSystemName): LoopDisk {
    const image = path.join(folder, `${name}.img`);
    const descriptor = openSync(image, "wx");
    ftruncateSync(descriptor, DISK_BYTES);
    closeSync(descriptor);
    const [program, ...words] = MAKE_FILE_SYSTEM[kind];
    command(program, ...words, image);
    return new LoopDisk(image, "loop");
  }

  /** A copy of all of it, with the same UUID, as a snapshot of a volume has: mounted beside it. */
  copyTo(folder: string, name: string, options = "loop"): LoopDisk {
    command("sync", "-f", this.mountPoint);
    const image = path.join(folder, `${name}.img`);
    copyFileSync(this.#image, image);
    return new LoopDisk(image, options);
  }

  /** What is in memory alone is lost, as when the power fails; then it is mounted again. */
  cutPower(): void {
    this.shutDown();
    this.remount();
  }

  /** The same, for who has files of it open: it is to be mounted again when they are closed. */
  shutDown(): void {
    const ioctl = koffi.load("libc.so.6").func("int ioctl(int fd, unsigned long request, uint32_t *flags)");
    const descriptor = openSync(this.mountPoint, "r");
    try {
      if (ioctl(descriptor, SHUTDOWN, WITHOUT_LOG) !== 0) throw new Error("the shutdown ioctl failed");
    } finally {
      closeSync(descriptor);
    }
  }

  remount(): void {
    command("umount", this.mountPoint);
    this.#mount();
  }

  #mount(): void {
    command(...findingLoop("mount", "-o", this.#options, this.#image, this.mountPoint));
  }
}

export function command(program: string, ...words: string[]): void {
  const { status, stderr } = spawnSync(program, words, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${words.join(" ")} ended with ${status}: ${stderr}`);
}
