export { toTwoDecimals } from "./decimals.ts";
export { formatBytes, parseSizeBytes, sayBytes } from "./size.ts";
export type { ClusterIndex, GuestOffset, HostOffset } from "./offset.ts";
export { clusterAt, clusterIndex, guestOffset, hostOffset, offsetBy, safeNumber, startOf } from "./offset.ts";
