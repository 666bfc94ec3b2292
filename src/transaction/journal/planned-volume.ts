// Volumes that a transaction has made for it, as its journal keeps them.

/** A volume that a device's provisioner makes for a statement. */
export interface PlannedVolume {
  readonly device: string;
  readonly path: string;
  /** At least. */
  readonly sizeBytes: number;
  /** The program by its path, and its first arguments. */
  readonly command: readonly string[];
}

/** Volumes that are made before the statement is planned. */
export interface ProvisionRecord {
  readonly type: "provision";
  readonly statement: number;
  readonly volumes: readonly PlannedVolume[];
}
