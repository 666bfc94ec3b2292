// The images of an examination: those that were asked for, and those that they name, each file once, whatever it is called.
//
// Invariants
// - Folders are walked without following links, and nothing is opened but regular files, and block devices that somebody
//   named, or that a device table has: not those that a link in a folder or a header leads to.
// - Work is bounded: so many files, so many folders deep. What is left out is told.
// - Chains are followed by what headers say, so that a loop ends at a file that is known.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import {
  composeBackingPath,
  type ExaminedImage,
  examineImage,
  formatInName,
  identityOf,
  isBesideImage,
  isProtocolName,
  localFileOf,
} from "../../format/index.ts";
import type { OpenOptions, Storage } from "../../storage/index.ts";

export interface Bounds {
  readonly files: number;
  readonly depth: number;
}

/** What an image names: its backing image, or its data file. */
export interface Lead {
  readonly name: string;
  /** Where it leads to; undefined: not to a file of this host. */
  readonly path: string | undefined;
  /** As it is stated; undefined: nothing says. */
  readonly format: string | undefined;
  /** What is there; undefined: nothing, or nobody looked. */
  readonly target: Patient | undefined;
  /** Whether the search for it was cut off by the bound, or could not get there. */
  readonly why: string | undefined;
}

export interface Patient {
  /** The first of its names that was found. */
  readonly path: string;
  /** Others of it that were. */
  readonly others: string[];
  readonly image: ExaminedImage;
  /** Whether it was asked for, by name or by its folder; else an image has led to it. */
  isGiven: boolean;
  backing: Lead | undefined;
  dataFile: Lead | undefined;
  /** Whether an image names it as its data file. */
  isDataFile: boolean;
  /** Images that name it as their backing image. */
  readonly overlays: Patient[];
}

export class Census {
  readonly #storage: Storage;
  readonly #currentFolder: string;
  readonly #bounds: Bounds;
  readonly #byIdentity = new Map<string, Patient>();
  readonly #byPath = new Map<string, Patient>();
  readonly #toFollow: Patient[] = [];
  readonly #onFile: (passed: number, known: number) => void;
  /** Sentences on what was left out. */
  readonly left: string[] = [];
  /** Folders named .imgtx, or like that of an image: each with what it lies in or beside. */
  readonly workspaces = new Set<string>();
  readonly foldersBeside = new Set<string>();
  /** What is asked for, and could not be looked at. */
  readonly failures: { readonly path: string; readonly error: ImgtxError }[] = [];
  #opened = 0;
  /** Names that are known to be looked at, and those of them that are done with. */
  #known = 0;
  #passed = 0;

  constructor(
    storage: Storage,
    {
      currentFolder,
      bounds,
      onFile,
    }: { currentFolder: string; bounds: Bounds; onFile: (passed: number, known: number) => void },
  ) {
    this.#storage = storage;
    this.#currentFolder = currentFolder;
    this.#bounds = bounds;
    this.#onFile = onFile;
  }

  get patients(): readonly Patient[] {
    return [...this.#byIdentity.values()];
  }

  at(path: string): Patient | undefined {
    return this.#byPath.get(path);
  }

  /** How many files were opened. */
  get opened(): number {
    return this.#opened;
  }

  /** Looks at so many things in turn; the more of them are told before, the truer is what is told of how far it is. */
  async each<T>(things: readonly T[], look: (thing: T) => Promise<void>): Promise<void> {
    this.#known += things.length;
    for (const thing of things) {
      await look(thing);
      this.#passed += 1;
    }
  }

  /** The files of a folder and of those below it. Links come last: what they lead to has a name of its own, if it can. */
  async addFolder(folder: string): Promise<void> {
    const links: string[] = [];
    await this.#walk(folder, 0, links);
    await this.each(links, async (link) => {
      if (!this.#isFull(posix.dirname(link))) await this.#addLink(link);
    });
  }

  /** It may lead in a circle, or where the caller may not look: that is its own trouble. */
  async #addLink(link: string): Promise<void> {
    try {
      await this.addFile(link);
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      this.failures.push({ path: link, error });
    }
  }

  async #walk(folder: string, depth: number, links: string[]): Promise<void> {
    let names: readonly string[];
    try {
      names = await this.#storage.readFolder(folder);
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      this.failures.push({ path: folder, error });
      return;
    }
    await this.each(names, async (name) => {
      if (this.#isFull(folder)) return;
      const path = posix.join(folder, name);
      const there = await this.#storage.statLink(path);
      if (there?.kind === "folder") await this.#addBelow(path, depth + 1, links);
      else if (there?.kind === "file") await this.addFile(path);
      else if (there?.kind === "symlink") links.push(path);
    });
  }

  async #addBelow(path: string, depth: number, links: string[]): Promise<void> {
    const name = posix.basename(path);
    if (name === ".imgtx") this.workspaces.add(posix.dirname(path));
    else if (isBesideImage(path)) this.foldersBeside.add(path);
    else if (depth <= this.#bounds.depth) await this.#walk(path, depth, links);
    else this.left.push(`${path}, which lies deeper than ${this.#bounds.depth} folders`);
  }

  #isFull(folder: string): boolean {
    const isFull = this.#opened >= this.#bounds.files;
    const line = `what else is in ${folder} and after it, beyond ${this.#bounds.files} files`;
    if (isFull && this.left.length === 0) this.left.push(line);
    return isFull;
  }

  /** One that was asked for, by its own name or a folder's. Undefined: it is no file, or leads to none. */
  async addFile(path: string, opening: Pick<OpenOptions, "mayBeDevice"> = {}): Promise<Patient | undefined> {
    const patient = await this.#examine(path, opening);
    if (patient) patient.isGiven = true;
    return patient;
  }

  /** Follows what the images name, until all is known or the bound is reached. */
  async follow(): Promise<void> {
    // It grows meanwhile.
    for (const patient of this.#toFollow) {
      const { header, path } = patient.image;
      if (!header) continue;
      const { backingFileName: name, backingFormat, dataFileName } = header;
      if (name !== undefined) {
        const local = !isProtocolName(name) || localFileOf(name) !== undefined;
        const to = local ? composeBackingPath(path, name, this.#currentFolder) : undefined;
        const format = backingFormat ?? formatInName(name);
        patient.backing = await this.#lead(patient, { name, path: to, format });
        patient.backing.target?.overlays.push(patient);
      }
      if (dataFileName !== undefined && dataFileName !== "") {
        const to = posix.isAbsolute(dataFileName) ? dataFileName : `${this.#currentFolder}/${dataFileName}`;
        const at = isProtocolName(dataFileName) ? undefined : to;
        patient.dataFile = await this.#lead(patient, { name: dataFileName, path: at, format: "raw" });
        const { target } = patient.dataFile;
        if (target && target !== patient) target.isDataFile = true;
      }
    }
    this.#onFile(this.#passed, this.#known);
  }

  async #lead(
    patient: Patient,
    { name, path, format }: Pick<Lead, "name" | "path" | "format">,
  ): Promise<Lead> {
    const lead = { name, path, format, target: undefined };
    if (path === undefined) return { ...lead, why: "it names a protocol, and no file of this host" };
    if (this.#opened >= this.#bounds.files && !this.#byPath.has(path)) {
      if (this.left.length === 0) {
        this.left.push(`what ${patient.path} and others stand on, beyond ${this.#bounds.files} files`);
      }
      return { ...lead, why: "nobody looked" };
    }
    try {
      const target = await this.#follow(path);
      return { ...lead, target, why: undefined };
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      return { ...lead, why: error.message };
    }
  }

  async #follow(path: string): Promise<Patient | undefined> {
    let target: Patient | undefined;
    await this.each([path], async () => {
      target = await this.#examine(path);
    });
    return target;
  }

  async #examine(path: string, opening: Pick<OpenOptions, "mayBeDevice"> = {}): Promise<Patient | undefined> {
    const known = this.#byPath.get(path);
    if (known) return known;
    const stat = await this.#storage.stat(path);
    if (!stat) return undefined;
    const same = this.#byIdentity.get(identityOf(stat));
    if (same) {
      same.others.push(path);
      this.#byPath.set(path, same);
      return same;
    }
    this.#opened += 1;
    this.#onFile(this.#passed, this.#known);
    const image = await examineImage(this.#storage, path, stat, opening);
    const patient: Patient = {
      path,
      others: [],
      image,
      isGiven: false,
      isDataFile: false,
      backing: undefined,
      dataFile: undefined,
      overlays: [],
    };
    this.#byIdentity.set(identityOf(image.stat), patient);
    this.#byPath.set(path, patient);
    this.#toFollow.push(patient);
    return patient;
  }
}
