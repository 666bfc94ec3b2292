// The disks of a libvirt domain, from its XML: which images of this host a guest sees, under which names.
//
// Invariant: only the children of <disk> itself count. What <backingStore> and <mirror> say of sources of their own is what
// libvirt knew when it last looked, or what a copy goes to: imgtx reads chains from the images.

import { ImgtxError } from "../../errors/index.ts";
import { absolutePath } from "../grammar/path.ts";
import { readXml, type XmlElement, XmlFault } from "./xml.ts";

export interface DomainDisk {
  /** As the guest's bus names it: `vda`. */
  readonly target: string;
  /** The image, absolute; undefined: it is none of this host's. */
  readonly path: string | undefined;
  /** As libvirt says it; undefined: it does not. */
  readonly format: string | undefined;
  /** A drive whose medium may be away. */
  readonly isRemovable: boolean;
  /** Whether the guest can't write to it. */
  readonly isReadOnly: boolean;
  /** Why it is no disk that imgtx could take for a device, as a clause; undefined: it is one. */
  readonly why: string | undefined;
}

/** E_REFUSED where the XML is not a domain's. */
export function readDisks(xml: string, source: string): readonly DomainDisk[] {
  let root: XmlElement;
  try {
    root = readXml(xml);
  } catch (cause) {
    if (!(cause instanceof XmlFault)) throw cause;
    throw refuse(source, `it is no XML: ${cause.message}`);
  }
  if (root.name !== "domain") throw refuse(source, `its root element is <${root.name}>, and not <domain>`);
  const disks = childrenOf(root, "devices").flatMap((devices) => childrenOf(devices, "disk"));
  const found = disks.map((disk) => readDisk(disk, source));
  const twice = found.find(({ target }, index) => found.findIndex((one) => one.target === target) !== index);
  if (twice) throw refuse(source, `two disks are called '${twice.target}'`);
  return found;
}

function readDisk(disk: XmlElement, source: string): DomainDisk {
  const target = childrenOf(disk, "target")[0]?.attributes.get("dev");
  if (target === undefined || target === "") throw refuse(source, "a disk has no <target dev=…>");
  const format = childrenOf(disk, "driver")[0]?.attributes.get("type");
  const { path, why } = readSource(disk);
  const device = disk.attributes.get("device") ?? "disk";
  const medium = MEDIA[device] ?? (device === "disk" ? undefined : `it is a device of the kind '${device}'`);
  const isRemovable = device === "cdrom" || device === "floppy";
  const isReadOnly = device === "cdrom" || childrenOf(disk, "readonly").length > 0;
  return { target, path, format, isRemovable, isReadOnly, why: medium ?? why ?? cannot(disk, format) };
}

const MEDIA: Readonly<Record<string, string>> = {
  cdrom: "it is a CD-ROM drive",
  floppy: "it is a floppy drive",
  lun: "the guest has all of that device by SCSI commands",
};

/** By the type of a disk the attribute that names its image. */
const NAMED_BY: Readonly<Record<string, string>> = { file: "file", block: "dev" };

function readSource(disk: XmlElement): Pick<DomainDisk, "path" | "why"> {
  const type = disk.attributes.get("type") ?? "file";
  const [element] = childrenOf(disk, "source");
  const attribute = NAMED_BY[type];
  if (attribute === undefined) return { path: undefined, why: sayElsewhere(type, element) };
  const path = element?.attributes.get(attribute);
  if (path === undefined || path === "") return { path: undefined, why: "nothing is in it" };
  if (!path.startsWith("/")) return { path: undefined, why: `its name '${path}' is not absolute` };
  const isPart = element !== undefined && childrenOf(element, "slices").length > 0;
  return { path: absolutePath("/", path), why: isPart ? "it is a part of a file" : undefined };
}

function sayElsewhere(type: string, source: XmlElement | undefined): string {
  const name = (attribute: string): string => source?.attributes.get(attribute) ?? "?";
  if (type === "network") return `it is on the network (${name("protocol")}: ${name("name")})`;
  if (type === "volume")
    return (
      `it is the volume '${name("volume")}' of libvirt's pool '${name("pool")}', ` +
      "whose path `virsh vol-path` tells"
    );
  return `it is of the type '${type}', and no image of this host`;
}

function cannot(disk: XmlElement, format: string | undefined): string | undefined {
  const sources = [disk, ...childrenOf(disk, "source")];
  if (sources.some((one) => childrenOf(one, "encryption").length > 0)) return "it is encrypted";
  if (childrenOf(disk, "mirror").length > 0) return "libvirt is copying it to another image";
  const isKnown = format === undefined || format === "qcow2" || format === "raw";
  return isKnown ? undefined : `its format is '${format}'`;
}

function childrenOf({ children }: XmlElement, name: string): readonly XmlElement[] {
  return children.filter((child) => child.name === name);
}

function refuse(source: string, why: string): ImgtxError {
  return new ImgtxError("E_REFUSED", `${source} is not taken for a domain of libvirt's: ${why}`, {
    hint: "give the name of a domain, or what `virsh dumpxml NAME` prints as FILE.xml, or as - on stdin",
  });
}
