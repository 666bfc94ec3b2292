// Requests about devices as such: their names, which there are, where their images are and may lead to.

export interface DeviceAddRequest {
  readonly kind: "device-add";
  readonly device: string;
  readonly file: string;
  readonly format: string | undefined;
  /** Folders to trust for raw backing images and data files, kept for the workspace. */
  readonly allowPaths: readonly string[];
  /** The command that makes and removes its volumes, its program by an absolute path. Default: none. */
  readonly provision?: readonly string[];
}

export interface DeviceRemoveRequest {
  readonly kind: "device-remove";
  readonly device: string;
}

/** Devices go to another folder, with all images that snapshots keep of them. */
export interface RelocateRequest {
  readonly kind: "relocate";
  /** Undefined: all of the workspace. */
  readonly devices: readonly string[] | undefined;
  /** Absolute. */
  readonly folder: string;
  /** Whether the sources stay. */
  readonly keep: boolean;
}

/** The device gets another name, and its images stay where they are. */
export interface DeviceRenameRequest {
  readonly kind: "device-rename";
  readonly device: string;
  readonly name: string;
}

/** Gives a device the command that makes and removes its volumes, or takes it away. */
export interface DeviceProvisionRequest {
  readonly kind: "device-provision";
  readonly device: string;
  /** The program by an absolute path, and its first arguments. Null: none any more. */
  readonly provision: readonly string[] | null;
}

/** Keeps a folder, or a file, where a device's images may lead to for raw backing images and data files. */
export interface DeviceTrustRequest {
  readonly kind: "device-trust";
  readonly device: string;
  /** Absolute. */
  readonly place: string;
}
