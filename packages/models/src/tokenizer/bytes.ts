/** The byte-level alphabet: every byte has one printable character, so that any text is a string of known symbols. */

const printable = (byte: number): boolean => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;

/**
 * Character of each byte as in GPT-2: printable Latin-1 bytes stand for themselves, the other 68 become U+0100, U+0101, ...
 * in the order of their bytes. `byteToChar[0x20]` is "Ġ".
 */
export const byteToChar: readonly string[] = (() => {
  let spare = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : spare++));
})();

const charToByte: ReadonlyMap<string, number> = new Map(byteToChar.map((char, byte) => [char, byte]));

/** Bytes in the order of their characters' code points: the order in which a trained vocabulary lists them. */
export const bytesByChar: readonly number[] = byteToChar.map((_, byte) => byte).sort((a, b) => byteToChar[a].charCodeAt(0) - byteToChar[b].charCodeAt(0));

/** The bytes that a byte-level token stands for, or undefined when the token holds a character outside the alphabet. */
export function tokenBytes(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = charToByte.get(token[i]);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}
