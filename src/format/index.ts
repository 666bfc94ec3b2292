export type ImageFormat = "qcow2" | "raw";
