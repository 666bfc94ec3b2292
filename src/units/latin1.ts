// Bytes as text of Latin-1, which has a character for each of them: any text survives a round trip unchanged.

/** For short texts. Made without a spread, which asks an iterator for each byte. */
export function decodeLatin1(bytes: Uint8Array): string {
  return String.fromCharCode.apply(null, bytes as unknown as number[]);
}
