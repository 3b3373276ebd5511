/**
 * Trees: nested objects, class instances and arrays whose leaves satisfy a predicate.
 *
 * A model is its fields: only own enumerable string keys and array elements are visited, in their order; null,
 * undefined, numbers, strings, functions and typed arrays are structure, carried along unchanged. Paths join keys by
 * "." and are the names in a weight file.
 */
import { ConfigError } from "./errors.ts";

/** Says whether a value is a leaf. */
export type IsLeaf<L> = (value: unknown) => value is L;

/** The type of `T` with each leaf `L` replaced by `M`. */
export type MapLeaves<T, L, M> = T extends L ? M
  : T extends (...args: never) => unknown ? T
  : T extends object ? { [K in keyof T]: MapLeaves<T[K], L, M> }
  : T;

/** Leaves with their names, in the order of fields. */
export interface Flat<L> { readonly paths: readonly string[]; readonly leaves: readonly L[] }

const join = (path: string, key: string): string => (path === "" ? key : `${path}.${key}`);
const isBranch = (value: unknown): value is object => typeof value === "object" && value !== null && !ArrayBuffer.isView(value);

/** Refuses an object that is its own ancestor; one that is merely used twice is visited twice. */
function enter<R>(value: object, path: string, above: Set<object>, inside: () => R): R {
  if (above.has(value)) throw new ConfigError(`tree: ${path === "" ? "the root" : path} contains itself`, { op: "tree", key: path, fix: "make the back reference non-enumerable or a #private field" });
  above.add(value);
  const result = inside();
  above.delete(value);
  return result;
}

/** Calls `visit(leaf, path)` for each leaf. @throws ConfigError on a cycle */
export function forEachLeaf<L>(tree: unknown, isLeaf: IsLeaf<L>, visit: (leaf: L, path: string) => void): void {
  const above = new Set<object>();
  const go = (value: unknown, path: string): void => {
    if (isLeaf(value)) visit(value, path);
    else if (isBranch(value)) enter(value, path, above, () => { for (const [key, child] of Object.entries(value)) go(child, join(path, key)); });
  };
  go(tree, "");
}

/** All leaves and their paths. A leaf that sits in two places appears twice. */
export function flatten<L>(tree: unknown, isLeaf: IsLeaf<L>): Flat<L> {
  const paths: string[] = [], leaves: L[] = [];
  forEachLeaf(tree, isLeaf, (leaf, path) => { paths.push(path); leaves.push(leaf); });
  return { paths, leaves };
}

/** Names of all leaves, joined by ".". */
export const treePaths = <L>(tree: unknown, isLeaf: IsLeaf<L>): readonly string[] => flatten(tree, isLeaf).paths;

/** A copy with each leaf replaced by `f(leaf, path)`; instances keep their class, everything else is carried along. */
export function mapTree<T, L, M>(tree: T, isLeaf: IsLeaf<L>, f: (leaf: L, path: string) => M): MapLeaves<T, L, M> {
  const above = new Set<object>();
  const go = (value: unknown, path: string): unknown => {
    if (isLeaf(value)) return f(value, path);
    if (!isBranch(value)) return value;
    return enter(value, path, above, () => {
      if (Array.isArray(value)) return value.map((child: unknown, i) => go(child, join(path, `${i}`)));
      const copy: object = Object.create(Object.getPrototypeOf(value) as object | null) as object;
      for (const [key, child] of Object.entries(value)) Object.defineProperty(copy, key, { value: go(child, join(path, key)), enumerable: true, writable: true, configurable: true });
      return copy;
    });
  };
  return go(tree, "") as MapLeaves<T, L, M>;
}

/** Puts values in place of the leaves of `structure`, in the order of `flatten`. @throws ConfigError if their numbers differ */
export function unflatten<T, L, M>(structure: T, isLeaf: IsLeaf<L>, leaves: readonly M[]): MapLeaves<T, L, M> {
  let next = 0;
  const tree = mapTree(structure, isLeaf, () => leaves[next++]);
  if (next !== leaves.length) throw new ConfigError(`unflatten: the tree has ${next} leaves, ${leaves.length} were given`, { op: "unflatten", value: leaves.length });
  return tree;
}

/** Calls `f` on leaves of two trees of the same structure, pairwise. @throws ConfigError where they differ */
export function zipTrees<T, L, K, M>(tree: T, isLeaf: IsLeaf<L>, other: unknown, isOther: IsLeaf<K>, f: (leaf: L, partner: K, path: string) => M): MapLeaves<T, L, M> {
  const b = flatten(other, isOther);
  let next = 0;
  const zipped = mapTree(tree, isLeaf, (leaf, path) => {
    const i = next++;
    if (b.paths[i] !== path) throw new ConfigError(`trees differ at ${path}: the other tree has ${b.paths[i] ?? "no more leaves"}`, { op: "zipTrees", key: path });
    return f(leaf, b.leaves[i], path);
  });
  if (next !== b.leaves.length) throw new ConfigError(`trees differ: the other tree also has ${b.paths[next]}`, { op: "zipTrees", key: b.paths[next] });
  return zipped;
}

/** Splits a tree in two of the same structure: leaves that satisfy the predicate, and the rest; null fills the holes. */
export function partition<T, L>(tree: T, isLeaf: IsLeaf<L>, predicate: (leaf: L, path: string) => boolean): [MapLeaves<T, L, L | null>, MapLeaves<T, L, L | null>] {
  const keep = new Set<string>();
  forEachLeaf(tree, isLeaf, (leaf, path) => { if (predicate(leaf, path)) keep.add(path); });
  return [
    mapTree(tree, isLeaf, (leaf, path): L | null => (keep.has(path) ? leaf : null)),
    mapTree(tree, isLeaf, (leaf, path): L | null => (keep.has(path) ? null : leaf)),
  ];
}

/** Undoes `partition`: each null of `a` is filled from the same place of `b`; where both have a value, `a` wins. */
export function combine<T, U, L>(a: T, b: U, isLeaf: IsLeaf<L>): T | U {
  const go = (x: unknown, y: unknown): unknown => {
    if (x === null || x === undefined) return y;
    if (isLeaf(x) || !isBranch(x) || !isBranch(y) || isLeaf(y)) return x;
    const right = new Map(Object.entries(y));
    if (Array.isArray(x)) return x.map((child: unknown, i) => go(child, right.get(`${i}`)));
    const out: object = Object.create(Object.getPrototypeOf(x) as object | null) as object;
    const left = new Map(Object.entries(x));
    for (const key of new Set([...left.keys(), ...right.keys()])) {
      Object.defineProperty(out, key, { value: go(left.get(key), right.get(key)), enumerable: true, writable: true, configurable: true });
    }
    return out;
  };
  return go(a, b) as T | U;
}
