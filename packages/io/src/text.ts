/** Text of files: UTF-8 and nothing else, so that no damaged character is taken for text. */
import { FormatError } from "@adjoint/tensor";

/**
 * Bytes as text; a byte order mark of UTF-8 is left out.
 *
 * @throws FormatError naming the file and the offset of the first byte that is no UTF-8
 */
export function decodeText(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    const at = invalidUtf8(bytes), [a, b] = bytes, wide = (a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff);
    if (at < 0) throw new FormatError(`${file}: ${bytes.byteLength} bytes do not fit into one text`, { file, value: bytes.byteLength, fix: "cut the file into smaller ones", cause });
    throw new FormatError(`${file}: not UTF-8 text: ${wide ? "it begins with the byte order mark of UTF-16" : `byte ${at} is 0x${bytes[at].toString(16).padStart(2, "0")}, which is no character or begins none`}`, {
      file, key: `byte ${at}`, value: bytes[at], fix: wide ? "save it as UTF-8 (iconv -f UTF-16 -t UTF-8)" : "save it as UTF-8 (iconv -f ISO-8859-1 -t UTF-8 if it is Latin-1); a file that is no text is not read", cause,
    });
  }
}

/** Offset of the first byte of what is no character of UTF-8 (Unicode 16, table 3-7); -1: all are. */
export function invalidUtf8(bytes: Uint8Array): number {
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at], more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xf0 && first < 0xf5 ? 3 : -1;
    if (more < 0) return at;
    // the second byte's range leaves out overlong forms, surrogates and what is beyond U+10FFFF
    const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80, high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
    for (let i = 1; i <= more; i++) if (!(bytes[at + i] >= (i === 1 ? low : 0x80) && bytes[at + i] <= (i === 1 ? high : 0xbf))) return at;
    at += 1 + more;
  }
  return -1;
}
