/** Where a path really leads, and whether one lies in another. */
import { node } from "./file-system.ts";

/** The real path of what may not exist yet: links are followed as far as there is something. */
export async function realPath(given: string): Promise<string> {
  const { fs, path } = node(), rest: string[] = [];
  for (let at = path.resolve(given); ; at = path.dirname(at)) {
    const found = await fs.realpath(at).catch(() => null);
    if (found !== null) return path.join(found, ...rest);
    if (path.dirname(at) === at) return path.resolve(given);
    rest.unshift(path.basename(at));
  }
}

/** Whether one real path is the other, or lies in it. */
export function isWithin(inner: string, outer: string): boolean {
  const { path } = node(), way = path.relative(outer, inner);
  return way === "" || (way !== ".." && !way.startsWith(`..${path.sep}`) && !path.isAbsolute(way));
}
