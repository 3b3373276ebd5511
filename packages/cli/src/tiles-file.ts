/** Where the measured kernel choices of a GPU are kept: one JSON file an adapter, below the user's cache folder. */
import { fileSystem, node, parseJson, readText, writeFileAtomic } from "@adjoint/io";
import type { TileTable } from "@adjoint/webgpu";

/** ADJOINT_CACHE, XDG_CACHE_HOME/adjoint or ~/.cache/adjoint. */
export function cacheFolder(): string {
  const { os, path } = node(), { env } = process;
  return env["ADJOINT_CACHE"] ?? path.join(env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "adjoint");
}
/** The file for an adapter of this name. */
export const tilesFile = (adapter: string): string => node().path.join(cacheFolder(), "tiles", `${adapter.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}.json`);

/** The table for an adapter, if it was measured. @throws FormatError for a file that is none */
export async function readTiles(adapter: string): Promise<TileTable | null> {
  const file = tilesFile(adapter);
  if ((await fileSystem().list(file)) !== "file") return null;
  const { tileTable } = await import("@adjoint/webgpu");
  return tileTable(parseJson(await readText(file), file));
}
export async function writeTiles(file: string, table: TileTable): Promise<void> {
  await writeFileAtomic(file, `${JSON.stringify(table, null, 1)}\n`);
}
