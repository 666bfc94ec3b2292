// Who may open a new image: whoever may open the one that it stands for, by permission bits, ACL and label. The
// guest that wrote to a layer has to write to the overlay on it, and nobody else may.

import type { ChainLink } from "../../format/index.ts";
import type { FileStat, Storage, StorageFile } from "../../storage/index.ts";

const ACL = "system.posix_acl_access";
const LABEL = "security.selinux";
/** An image is no program, whatever bits it has. */
const READ_AND_WRITE = 0o666;
const OWNERS = 0o600;
const GROUPS = 0o060;
const OTHERS = 0o006;
const ROOT = 0;

export interface ImageAccess {
  readonly mode: number;
  /** Undefined: to whoever runs imgtx. */
  readonly owner: Pick<FileStat, "ownerId" | "groupId"> | undefined;
  /** POSIX ACL. The group's bits of the mode are its mask then, and not what the group may. */
  readonly acl: Uint8Array | undefined;
  /** Of SELinux. */
  readonly label: Uint8Array | undefined;
}

/** For who runs imgtx alone. */
export const PRIVATE: ImageAccess = { mode: OWNERS, owner: undefined, acl: undefined, label: undefined };

export async function accessLike({ stat, file }: Pick<ChainLink, "stat" | "file">): Promise<ImageAccess> {
  return {
    mode: (stat.mode & READ_AND_WRITE) | OWNERS,
    owner: stat,
    acl: await file.readAttribute(ACL),
    label: await file.readAttribute(LABEL),
  };
}

/** The mode to make it with: no more than it has in the end, whoever's group it is in for a moment. */
export function modeAtFirst({ mode, acl }: ImageAccess): number {
  return acl ? mode & ~GROUPS : mode;
}

/**
 * Against the umask, and the ACL that a folder gives to new files; and for root, who works on the images of others,
 * against being the owner. Others stay the owner, and give it to the group where they are in it.
 */
export async function giveAccess(
  storage: Storage,
  file: StorageFile,
  { mode, owner, acl, label }: ImageAccess,
): Promise<void> {
  const made = await file.stat();
  const isRoot = storage.host.userId === ROOT;
  const ownerId = isRoot && owner ? owner.ownerId : made.ownerId;
  const groupId = owner && (isRoot || mayGiveTo(storage, owner.groupId)) ? owner.groupId : made.groupId;
  // Another group gets no more than what all others have.
  const isTheirs = owner === undefined || groupId === owner.groupId;
  const wanted = isTheirs && !acl ? mode : mode & ~(GROUPS & ~((mode & OTHERS) << 3));
  const inherited = acl ? undefined : await file.readAttribute(ACL);
  if (inherited) await file.setAttribute(ACL, undefined);
  if (inherited || made.mode !== wanted || made.ownerId !== ownerId || made.groupId !== groupId) {
    await file.setAccess({ mode: wanted, ownerId, groupId });
  }
  // Last: what changes the mode changes the ACL's mask. Without it nobody has too much.
  if (acl && isTheirs) await file.setAttribute(ACL, acl);
  if (label && !isEqual(label, await file.readAttribute(LABEL))) await file.setAttribute(LABEL, label);
}

function mayGiveTo({ host }: Storage, groupId: number): boolean {
  return host.groupsOfUser(host.userId)?.includes(groupId) ?? false;
}

function isEqual(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return b !== undefined && Buffer.compare(a, b) === 0;
}
