// The build puts package.json's version here; run from source there is none.

declare const IMGTX_VERSION: string | undefined;

export const version = typeof IMGTX_VERSION === "string" ? IMGTX_VERSION : "0.0.0-source";
