/** Where bytes are read from: a file by position, a Blob, or memory. */
import { ConfigError, FormatError } from "@adjoint/tensor";
import { errorCode, FileError, node } from "./file-system.ts";
import { decodeText } from "./text.ts";

/** Bytes that are read by position; `label` names them in errors. */
export interface ByteSource {
  readonly label: string;
  readonly size: number;
  /** Bytes [offset, offset + length); a file that became shorter meanwhile is a FormatError. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Bytes [offset, offset + into.length) into memory that is there already; where it is missing, `read` and a copy do it. */
  readInto?(offset: number, into: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** One read call takes less than 2 GiB. */
const PIECE = 1 << 30;

/** Opens a file (path or file: URL) for reading by position. */
export async function fileSource(path: string | URL): Promise<ByteSource> {
  const label = pathOf(path);
  const handle = await node().fs.open(label, "r").catch((error: unknown) => { throw readError(label, error); });
  const stat = await handle.stat();
  if (!stat.isFile()) {
    await handle.close();
    throw new FileError(`${label}: is not a file`, { file: label, fix: stat.isDirectory() ? "this is a folder: name a file in it" : "name a file" });
  }
  const readInto = async (offset: number, into: Uint8Array): Promise<void> => {
    for (let at = 0; at < into.length; ) {
      const { bytesRead } = await handle.read(into, at, Math.min(PIECE, into.length - at), offset + at);
      if (bytesRead === 0) throw shorter(label, offset + at, offset + into.length);
      at += bytesRead;
    }
  };
  return {
    label,
    size: stat.size,
    async read(offset, length) {
      const bytes = new Uint8Array(length);
      await readInto(offset, bytes);
      return bytes;
    },
    readInto,
    close: () => handle.close(),
  };
}

/** Reads from a Blob (a page's file picker, `await response.blob()`, fs.openAsBlob). */
export function blobSource(blob: Blob, label: string): ByteSource {
  return {
    label,
    size: blob.size,
    async read(offset, length) {
      const bytes = new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
      if (bytes.byteLength !== length) throw shorter(label, offset + bytes.byteLength, offset + length);
      return bytes;
    },
    close: async () => {},
  };
}

/** Reads from memory; what it gives are views. */
export function bytesSource(bytes: Uint8Array, label: string): ByteSource {
  return { label, size: bytes.byteLength, read: async (offset, length) => bytes.subarray(offset, offset + length), close: async () => {} };
}

/** A path, file: URL, Blob or source as a source. */
export async function sourceOf(source: string | URL | Blob | ByteSource): Promise<ByteSource> {
  if (typeof source === "string" || source instanceof URL) return fileSource(source);
  return source instanceof Blob ? blobSource(source, "name" in source ? String(source.name) : "blob") : source;
}

/** The path of a string or file: URL. */
export function pathOf(path: string | URL): string {
  if (typeof path === "string") return path;
  if (path.protocol === "file:") return node().url.fileURLToPath(path);
  throw new ConfigError(`${path.href}: not a file`, { file: path.href, fix: "fetch it yourself and pass the bytes or the Blob" });
}

/** Whole file as text, without a byte order mark. @throws FileError if it cannot be read; FormatError naming file and byte if it is not UTF-8 */
export async function readText(path: string | URL): Promise<string> {
  const file = pathOf(path);
  return decodeText(await node().fs.readFile(file).catch((error: unknown) => { throw readError(file, error); }), file);
}

const shorter = (label: string, have: number, need: number): FormatError =>
  new FormatError(`${label}: the file ends at byte ${have}, byte ${need} was expected`, { file: label, value: have, fix: "the file was cut while it was read: get it again" });

/** Turns the system's error into one that names file and fix. */
export function readError(file: string, error: unknown): unknown {
  const code = errorCode(error);
  if (code === undefined) return error;
  const fixes: Record<string, string> = { ENOENT: "check the path", EACCES: "change the file's permissions", EISDIR: "this is a folder: name a file in it" };
  const problem = code === "ENOENT" ? "no such file" : `cannot be read: ${code}`;
  return new FileError(`${file}: ${problem}`, { file, value: code, fix: fixes[code] ?? "check the path", cause: error });
}
