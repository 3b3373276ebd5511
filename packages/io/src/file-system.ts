/** The few operations by which this project changes a disk, as an object that tests replace by a failing one. */
import { AdjointError } from "@adjoint/tensor";
import type * as Crypto from "node:crypto";
import type * as Promises from "node:fs/promises";
import type * as Os from "node:os";
import type * as Path from "node:path";
import type * as Url from "node:url";

/** A file or folder that cannot be read or written; `details.file` names it, the message says what to do. */
export class FileError extends AdjointError {}

/** An open file that takes bytes at its end. */
export interface OutputFile {
  /** Appends bytes and returns how many were taken (perhaps fewer than given, never 0). */
  write(bytes: Uint8Array): Promise<number>;
  size(): Promise<number>;
  truncate(length: number): Promise<void>;
  /** Resolves once the bytes are on the disk. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** Everything that changes a disk; each method rejects with the operating system's error. */
export interface FileSystem {
  /** "create" fails with code EEXIST if the file is there; "append" keeps what is there. */
  open(path: string, mode: "create" | "append"): Promise<OutputFile>;
  /** Replaces `to` if it is a file. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file or a folder with all in it; a missing one is fine. */
  remove(path: string): Promise<void>;
  /** Makes a folder and its parents; returns the topmost one that was made, if any. */
  makeDirectory(path: string): Promise<string | undefined>;
  /** Names in a folder, sorted; null if there is nothing at this path; a file gives "file". */
  list(path: string): Promise<readonly string[] | "file" | null>;
}

/** The modules of Node that this project reads files with. */
export interface NodeModules {
  readonly crypto: typeof Crypto;
  readonly fs: typeof Promises;
  readonly os: typeof Os;
  readonly path: typeof Path;
  readonly url: typeof Url;
}

/** Node's modules without an import, so that pages can bundle this package; throws FileError where there are none. */
export function node(): NodeModules {
  const get = globalThis.process?.getBuiltinModule;
  if (get === undefined) {
    throw new FileError("there is no file system here", {
      fix: "outside Node pass bytes or a Blob, as in parseSafetensors(new Uint8Array(await response.arrayBuffer()), name)",
    });
  }
  return { crypto: get("node:crypto"), fs: get("node:fs/promises"), os: get("node:os"), path: get("node:path"), url: get("node:url") };
}

/** The operating system's code of an error, such as ENOENT. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

/** The disk of this machine through node:fs. */
export const disk: FileSystem = {
  async open(path, mode) {
    const handle = await node().fs.open(path, mode === "create" ? "wx" : "a");
    return {
      write: async (bytes) => (await handle.write(bytes, 0, bytes.byteLength)).bytesWritten,
      size: async () => (await handle.stat()).size,
      truncate: (length) => handle.truncate(length),
      sync: () => handle.sync(),
      close: () => handle.close(),
    };
  },
  async rename(from, to) {
    const { fs, path } = node();
    await fs.rename(from, to);
    await syncDirectory(path.dirname(to));
  },
  remove: (path) => node().fs.rm(path, { recursive: true, force: true }),
  makeDirectory: (path) => node().fs.mkdir(path, { recursive: true }),
  async list(path) {
    try {
      return (await node().fs.readdir(path)).sort();
    } catch (error) {
      if (errorCode(error) === "ENOENT") return null;
      if (errorCode(error) === "ENOTDIR") return "file";
      throw error;
    }
  },
};

/** Makes a rename survive a power cut; Windows and some network disks cannot sync a folder, and need not. */
async function syncDirectory(path: string): Promise<void> {
  try {
    const handle = await node().fs.open(path, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch {
    // the rename itself has happened
  }
}

let current: FileSystem = disk;

/** The file system that every write goes to unless an option says otherwise. */
export const fileSystem = (): FileSystem => current;

/** Runs `body` with another file system in place of the disk (for tests of full disks); the old one comes back afterwards. */
export async function withFileSystem<T>(replacement: FileSystem, body: () => Promise<T>): Promise<T> {
  const previous = current;
  current = replacement;
  try {
    return await body();
  } finally {
    current = previous;
  }
}
