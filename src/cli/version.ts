// The build puts package.json's version and its commit here; run from source there are none.

declare const IMGTX_VERSION: string | undefined;
declare const IMGTX_COMMIT: string | undefined;

export const version = typeof IMGTX_VERSION === "string" ? IMGTX_VERSION : "0.0.0-source";

/** As the launcher prints it, which answers most of who asks. Scripts read the first line. */
export function describeBuild(): string[] {
  const { bun, node } = process.versions;
  const runtime = bun === undefined ? `Node ${node}` : `single file with Bun ${bun}`;
  return [
    `imgtx ${version}`,
    `${runtime}, commit ${typeof IMGTX_COMMIT === "string" ? IMGTX_COMMIT : "unknown"}`,
  ];
}
