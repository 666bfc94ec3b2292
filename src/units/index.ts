export { toTwoDecimals } from "./decimals.ts";
export { formatBytes, parseSizeBytes } from "./size.ts";
export type { GuestOffset, HostOffset } from "./offset.ts";
export { guestOffset, hostOffset, offsetBy, safeNumber } from "./offset.ts";
