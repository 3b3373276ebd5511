/** Whole folders written at once: filled beside the target, then renamed into place. */
import { ConfigError } from "@adjoint/tensor";
import { fileSystem, node } from "./file-system.ts";
import type { FileSystem } from "./file-system.ts";
import { removeQuietly, temporaryName, writeError, writeNew } from "./files.ts";
import type { Content, WriteOptions } from "./files.ts";

export interface WriteDirectoryOptions extends WriteOptions {
  /** also replace a folder that holds names which the new one lacks (default false: such a folder is refused, because they would be lost) */
  readonly replaceAll?: boolean;
}

/**
 * Writes a folder of files so that the path holds either all of the old or all of the new folder.
 *
 * Names may hold "/" for subfolders. On failure the old folder is as it was and nothing else is left behind.
 * If the process is killed between the two renames, the old folder stands beside under another name:
 * the next write, or `recoverDirectory`, puts it back.
 * @throws FileError naming the file and what to do; ConfigError if names leave the folder or files would be lost
 */
export async function writeDirectoryAtomic(dir: string, files: Readonly<Record<string, Content>>, options: WriteDirectoryOptions = {}): Promise<void> {
  const fs = options.fileSystem ?? fileSystem();
  const { dirname, join, resolve } = node().path;
  const target = resolve(dir);
  for (const name of Object.keys(files)) checkName(dir, name);
  const temporary = temporaryName(target);
  let made: string | undefined;
  let writing = target;
  try {
    await recoverDirectory(target, options);
    const old = await fs.list(target);
    if (options.replaceAll !== true) refuseLoss(dir, old, files);
    made = await fs.makeDirectory(dirname(target));
    await fs.remove(temporary); // a killed process of the same number may have left it
    await fs.makeDirectory(temporary);
    for (const [name, content] of Object.entries(files)) {
      writing = join(target, name);
      if (name.includes("/")) await fs.makeDirectory(dirname(join(temporary, name)));
      await writeNew(fs, join(temporary, name), content);
    }
    writing = target;
    await swap(fs, temporary, target, old !== null);
  } catch (error) {
    await removeQuietly(fs, temporary);
    await removeQuietly(fs, made);
    throw writeError(writing, error);
  }
}

/** Puts the old folder back if a writer was killed between its two renames; otherwise does nothing. */
export async function recoverDirectory(dir: string, options: WriteOptions = {}): Promise<void> {
  const fs = options.fileSystem ?? fileSystem();
  const target = node().path.resolve(dir);
  const previous = previousName(target);
  if ((await fs.list(previous)) === null) return;
  if ((await fs.list(target)) === null) await fs.rename(previous, target);
  else await fs.remove(previous);
}

/** No system call of Node swaps two folders, hence two renames, and the first is undone if the second fails. */
async function swap(fs: FileSystem, temporary: string, target: string, replaces: boolean): Promise<void> {
  const previous = previousName(target);
  if (replaces) await fs.rename(target, previous);
  try {
    await fs.rename(temporary, target);
  } catch (error) {
    if (replaces) await fs.rename(previous, target);
    throw error;
  }
  if (replaces) await removeQuietly(fs, previous); // the new folder is in place; the next write tries again
}

function previousName(target: string): string {
  const { dirname, basename, join } = node().path;
  return join(dirname(target), `.${basename(target)}.previous`);
}

function checkName(dir: string, name: string): void {
  const parts = name.split("/");
  if (name.includes("\\") || /^[a-zA-Z]:/.test(name) || parts.some((part) => part === "" || part === "." || part === "..")) {
    throw new ConfigError(`${dir}: "${name}" is not a name inside this folder`, { file: dir, key: name, fix: 'use names such as "a.json" or "sub/a.json"' });
  }
}

function refuseLoss(dir: string, old: readonly string[] | "file" | null, files: Readonly<Record<string, Content>>): void {
  if (old === null) return;
  const fix = "choose a new or empty folder";
  if (old === "file") throw new ConfigError(`${dir}: a file has this name`, { file: dir, fix });
  const kept = new Set(Object.keys(files).map((name) => name.split("/")[0]));
  const lost = old.filter((name) => !kept.has(name));
  if (lost.length > 0) {
    throw new ConfigError(`${dir}: the folder holds ${lost.length === 1 ? "a file" : "files"} that writing it anew would delete: ${lost.slice(0, 5).join(", ")}`, { file: dir, value: lost, fix });
  }
}
