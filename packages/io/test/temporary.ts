/** A folder for one test, removed afterwards, and a picture of all that lies in it. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative, sep } from "node:path";

/** Runs `body` with the path of a fresh folder. */
export async function inFolder<T>(body: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), "adjoint-io-"));
  try {
    return await body(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Every file with its text, and every folder as "name/", by path: hidden and temporary ones too. */
export async function picture(dir: string): Promise<Record<string, string>> {
  const all: Record<string, string> = {};
  for (const entry of await readdir(dir, { withFileTypes: true, recursive: true })) {
    const path = join(entry.parentPath, entry.name);
    const name = relative(dir, path).split(sep).join("/");
    if (entry.isDirectory()) all[`${name}/`] = "";
    else all[name] = await readFile(path, "utf8");
  }
  return all;
}
