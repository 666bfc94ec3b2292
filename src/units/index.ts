export { toTwoDecimals } from "./decimals.ts";
export { formatBytes, parseSizeBytes } from "./size.ts";
export type { HostOffset } from "./offset.ts";
export { hostOffset, safeNumber } from "./offset.ts";
