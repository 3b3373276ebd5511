/** The one way in which this project writes: beside the target under another name, synced, then renamed into place. */
import { errorCode, FileError, fileSystem, node } from "./file-system.ts";
import type { FileSystem, OutputFile } from "./file-system.ts";

/** One piece of a file; text is written as UTF-8. */
export type Bytes = Uint8Array | string;
/** A whole file: one piece, or pieces in order. */
export type Content = Bytes | Iterable<Bytes> | AsyncIterable<Bytes>;

export interface WriteOptions {
  /** replaces the disk, in tests */
  readonly fileSystem?: FileSystem;
}

/** Large arrays go out in pieces: one write call takes less than 2 GiB. */
const PIECE = 1 << 26;
const encoder = new TextEncoder();
let unique = 0;

/**
 * Writes a file so that at every moment the path holds either all of the old or all of the new bytes.
 *
 * Missing parent folders are made. On failure the old file is as it was and nothing else is left behind.
 * @throws FileError naming the file, the system's reason and what to do (full disk, no permission, ...)
 */
export async function writeFileAtomic(path: string, content: Content, options: WriteOptions = {}): Promise<void> {
  const fs = options.fileSystem ?? fileSystem();
  const { dirname } = node().path;
  let made: string | undefined;
  let temporary: string | undefined;
  try {
    made = await fs.makeDirectory(dirname(path));
    temporary = await writeBeside(fs, path, content);
    await fs.rename(temporary, path);
  } catch (error) {
    await removeQuietly(fs, temporary);
    await removeQuietly(fs, made);
    throw writeError(path, error);
  }
}

/**
 * Appends one line of text (metrics as JSONL); a line that does not fit on the disk is taken back whole.
 *
 * The line is not synced: a power cut may lose the last lines, never tear an earlier one.
 * @throws FileError as writeFileAtomic; FileError if `line` itself holds a line break
 */
export async function appendLine(path: string, line: string, options: WriteOptions = {}): Promise<void> {
  if (/[\r\n]/.test(line)) throw new FileError(`${path}: a line to append holds a line break`, { file: path, value: line, fix: "escape it, as JSON.stringify does" });
  const fs = options.fileSystem ?? fileSystem();
  const isNew = (await fs.list(path)) === null;
  let made: string | undefined;
  try {
    if (isNew) made = await fs.makeDirectory(node().path.dirname(path));
    await closing(await fs.open(path, "append"), async (file) => {
      const before = await file.size();
      try {
        await writeAll(file, line + "\n");
      } catch (error) {
        await file.truncate(before);
        throw error;
      }
    });
  } catch (error) {
    if (isNew) await removeQuietly(fs, path);
    await removeQuietly(fs, made);
    throw writeError(path, error);
  }
}

/** Where a download that was cut is kept until it goes on. */
export const incompletePath = (path: string): string => `${path}.incomplete`;

/**
 * Writes a file from a source that may break off and go on later: bytes gather in `path.incomplete`, which is renamed when `check` accepts it.
 *
 * @param from gives the bytes from position `have` on; it is called once
 * @param check is called with the gathered file before it gets its name; when it throws, the gathered bytes are removed
 * @throws FileError if the disk refuses; errors of `from` and `check` as they are. What was gathered stays for the next call.
 */
export async function writeFileResumable(
  path: string,
  from: (have: number) => AsyncIterable<Uint8Array> | Promise<AsyncIterable<Uint8Array>>,
  check: (gathered: string) => Promise<void>,
  options: WriteOptions = {},
): Promise<void> {
  const fs = options.fileSystem ?? fileSystem();
  const gathered = incompletePath(path);
  const onDisk = <T>(work: Promise<T>): Promise<T> => work.catch((error: unknown) => { throw writeError(path, error); });
  await onDisk(fs.makeDirectory(node().path.dirname(path)));
  await closing(await onDisk(fs.open(gathered, "append")), async (file) => {
    for await (const bytes of await from(await onDisk(file.size()))) await onDisk(writeAll(file, bytes));
    await onDisk(file.sync());
  });
  try {
    await check(gathered);
  } catch (error) {
    await removeQuietly(fs, gathered);
    throw error;
  }
  await onDisk(fs.rename(gathered, path));
}

/** Writes content to a new file in the target's folder; leaves nothing behind when it fails. */
async function writeBeside(fs: FileSystem, path: string, content: Content): Promise<string> {
  const [temporary, file] = await createBeside(fs, path);
  try {
    await fill(file, content);
    return temporary;
  } catch (error) {
    await removeQuietly(fs, temporary);
    throw error;
  }
}

async function createBeside(fs: FileSystem, path: string): Promise<[string, OutputFile]> {
  for (;;) {
    const temporary = temporaryName(path);
    try {
      return [temporary, await fs.open(temporary, "create")];
    } catch (error) {
      if (errorCode(error) !== "EEXIST") throw error; // a killed process left one of this name: take the next
    }
  }
}

/** A hidden name beside `path` that no other writer of this machine uses. */
export function temporaryName(path: string): string {
  const { dirname, basename, join } = node().path;
  return join(dirname(path), `.${basename(path)}.${process.pid}-${unique++}.tmp`);
}

/** Writes a new file; its folder is private to the caller. */
export async function writeNew(fs: FileSystem, path: string, content: Content): Promise<void> {
  await fill(await fs.open(path, "create"), content);
}

function fill(opened: OutputFile, content: Content): Promise<void> {
  return closing(opened, async (file) => {
    for await (const bytes of piecesOf(content)) await writeAll(file, bytes);
    await file.sync();
  });
}

async function writeAll(file: OutputFile, bytes: Bytes): Promise<void> {
  const all = typeof bytes === "string" ? encoder.encode(bytes) : bytes;
  for (let at = 0; at < all.byteLength; ) at += await file.write(all.subarray(at, Math.min(at + PIECE, all.byteLength)));
}

function piecesOf(content: Content): Iterable<Bytes> | AsyncIterable<Bytes> {
  return typeof content === "string" || content instanceof Uint8Array ? [content] : content;
}

async function closing(file: OutputFile, body: (file: OutputFile) => Promise<void>): Promise<void> {
  try {
    await body(file);
  } catch (error) {
    await file.close().catch(() => {}); // the first error is the one to tell
    throw error;
  }
  await file.close();
}

/** Removes what a failed write left. */
export async function removeQuietly(fs: FileSystem, path: string | undefined): Promise<void> {
  if (path !== undefined) await fs.remove(path).catch(() => {}); // the error that led here is the one to tell
}

const fixes: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full: free some space or choose a folder on another disk",
  EDQUOT: "your disk quota is used up: free some space or choose a folder on another disk",
  EFBIG: "this disk does not hold files of this size: choose another one",
  EACCES: "you may not write there: choose another folder or change its permissions",
  EPERM: "you may not write there: choose another folder or change its permissions",
  EROFS: "this disk is read-only: choose another folder",
  EISDIR: "a folder has this name: choose another name",
  ENOTDIR: "a part of this path is a file: choose another folder",
  EEXIST: "a part of this path is a file: choose another folder",
  EMFILE: "too many files are open: close some or raise the limit (ulimit -n)",
  ENAMETOOLONG: "choose a shorter name",
};

/** Turns the system's error into one that names file and fix; errors that are not the system's pass unchanged. */
export function writeError(path: string, error: unknown): unknown {
  const code = errorCode(error);
  if (code === undefined || error instanceof FileError || !/^E[A-Z0-9]+$/.test(code)) return error;
  return new FileError(`cannot write ${path}: ${code}`, { file: path, value: code, fix: fixes[code] ?? "choose another folder", cause: error });
}
