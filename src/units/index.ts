export { toTwoDecimals } from "./decimals.ts";
export { decodeLatin1 } from "./latin1.ts";
export { formatBytes, parseSizeBytes, sayBytes, SECTOR_BYTES } from "./size.ts";
export { localTime, readTime, sayTime } from "./time.ts";
export type { Branded, ClusterIndex, GuestOffset, GuestRange, HostOffset } from "./offset.ts";
export {
  alignDown,
  alignUp,
  clusterAt,
  clusterIndex,
  earliest,
  endOf,
  guestOffset,
  guestRange,
  hostOffset,
  nextUnit,
  offsetBy,
  rangeTo,
  safeNumber,
  startOf,
} from "./offset.ts";
