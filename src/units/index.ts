export { formatBytes, parseSizeBytes } from "./size.ts";
export type { ClusterIndex, GuestOffset, HostOffset } from "./offset.ts";
export { guestOffset, hostOffset, safeNumber } from "./offset.ts";
