export { toTwoDecimals } from "./decimals.ts";
export { formatBytes, parseSizeBytes, sayBytes } from "./size.ts";
export type { GuestOffset, HostOffset } from "./offset.ts";
export { guestOffset, hostOffset, offsetBy, safeNumber } from "./offset.ts";
