// All images of a workspace as one tree: the chains of its devices, their mirrors, and what snapshots keep. Reads only.

import {
  type ChainEntry,
  type DeviceTable,
  findDevice,
  readingSnapshots,
  readTable,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { describeStatChanges, type ImageFormat } from "../../format/index.ts";
import { describeDevicesOf } from "./describe.ts";
import type { Session } from "../requests/request.ts";
import type { ChainElement, DeviceDescription } from "./results.ts";

/** One image, and what it is for. */
export interface TreeImage {
  readonly image: string;
  readonly format: ImageFormat;
  /** What it stands on; null: nothing that is known. */
  readonly backing: string | null;
  /** Null where that is not known. */
  readonly virtualSizeBytes: number | null;
  readonly allocatedBytes: number | null;
  /** When it was last written to, ISO 8601, UTC; null where it is not there. */
  readonly modified: string | null;
  /** The devices whose active layer it is. */
  readonly devices: readonly string[];
  /** The devices that it is the mirror of. */
  readonly mirrorOf: readonly string[];
  /** Those that keep it as their sealed image. */
  readonly snapshots: readonly { readonly number: number; readonly name: string | null }[];
  readonly isFenced: boolean;
  /** The transactions that hold its devices. */
  readonly transactions: readonly string[];
  /** Changed: since a snapshot has sealed it. */
  readonly state: "ok" | "missing" | "changed";
}

export interface TreeDescription {
  readonly root: string;
  readonly currentFolder: string;
  readonly now: string;
  readonly generation: number;
  readonly devices: readonly DeviceDescription[];
  readonly images: readonly TreeImage[];
  /** Records of snapshots that can't be read, a sentence each. */
  readonly problems: readonly string[];
}

/** Of the named devices, or of all. */
export async function describeTree(
  session: Session,
  names: readonly string[] | undefined,
): Promise<TreeDescription> {
  const { workspace, root, currentFolder } = session;
  const table = await readTable(workspace);
  const devices = await describeDevicesOf(session, table, names);
  const gathering = new Gathering();
  for (const device of devices)
    gathering.addDevice(device, findDevice(table, device.name)?.mirror?.chain ?? []);
  await addSnapshots(session, table, names, gathering);
  return {
    root,
    currentFolder,
    now: new Date(workspace.storage.host.now()).toISOString(),
    generation: table.generation,
    devices,
    images: await gathering.finish(session),
    problems: gathering.problems,
  };
}

async function addSnapshots(
  { workspace }: Session,
  table: DeviceTable,
  names: readonly string[] | undefined,
  gathering: Gathering,
): Promise<void> {
  const snapshots = readingSnapshots(workspace, table);
  for (const ref of table.snapshots) {
    try {
      const snapshot = await snapshots.read(ref);
      for (const { device, virtualSizeBytes } of snapshot.devices) {
        if (names && !names.includes(device)) continue;
        const chain = await snapshots.chainOf(snapshot, device);
        gathering.addSealed(ref, chain, virtualSizeBytes);
      }
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      gathering.problems.push(error.message);
    }
  }
}

interface Gathered {
  readonly image: string;
  readonly format: ImageFormat;
  backing: string | null;
  virtualSizeBytes: number | null;
  readonly devices: string[];
  readonly mirrorOf: string[];
  readonly snapshots: { readonly number: number; readonly name: string | null }[];
  readonly transactions: string[];
  isFenced: boolean;
  /** As the newest of those snapshots has it. */
  sealed: ChainEntry | undefined;
}

class Gathering {
  readonly problems: string[] = [];
  readonly #images = new Map<string, Gathered>();

  addDevice(device: DeviceDescription, mirror: readonly ChainEntry[]): void {
    const { name, transaction, fences } = device;
    const top = this.#addChain(device.chain);
    if (top) {
      top.devices.push(name);
      top.virtualSizeBytes ??= device.virtualSizeBytes;
      if (transaction !== null) top.transactions.push(transaction);
    }
    for (const image of fences) {
      const fenced = this.#images.get(image);
      if (fenced) fenced.isFenced = true;
    }
    this.#addChain(mirror)?.mirrorOf.push(name);
  }

  addSealed(
    { number, name }: { readonly number: number; readonly name: string | null },
    chain: readonly ChainEntry[],
    virtualSizeBytes: number,
  ): void {
    const top = this.#addChain(chain);
    if (!top) return;
    top.snapshots.push({ number, name });
    top.virtualSizeBytes ??= virtualSizeBytes;
    top.sealed = chain[0];
  }

  async finish({ workspace: { storage } }: Session): Promise<TreeImage[]> {
    const images = [...this.#images.values()].map(async ({ sealed, ...known }): Promise<TreeImage> => {
      const found = await storage.stat(known.image);
      if (!found) return { ...known, allocatedBytes: null, modified: null, state: "missing" };
      const was = sealed?.fingerprint;
      const isChanged = was !== undefined && describeStatChanges(was, found).length > 0;
      return {
        ...known,
        allocatedBytes: found.allocatedBytes,
        // A block device keeps no times.
        modified:
          found.kind === "device" ? null : new Date(Number(found.modifiedNs.slice(0, -6))).toISOString(),
        state: isChanged ? "changed" : "ok",
      };
    });
    return await Promise.all(images);
  }

  /** Active layer first. Returns that. */
  #addChain(chain: readonly (ChainElement | ChainEntry)[]): Gathered | undefined {
    const nodes = chain.map((element) => this.#at(element));
    for (const [depth, node] of nodes.entries()) node.backing = nodes[depth + 1]?.image ?? node.backing;
    return nodes[0];
  }

  #at(element: ChainElement | ChainEntry): Gathered {
    const { image, format } = element;
    const size = "virtualSizeBytes" in element ? (element.virtualSizeBytes ?? null) : null;
    const known = this.#images.get(image);
    if (known) {
      known.virtualSizeBytes ??= size;
      return known;
    }
    const lists = { devices: [], mirrorOf: [], snapshots: [], transactions: [] };
    const made = {
      image,
      format,
      backing: null,
      virtualSizeBytes: size,
      ...lists,
      isFenced: false,
      sealed: undefined,
    };
    this.#images.set(image, made);
    return made;
  }
}
