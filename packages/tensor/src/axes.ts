/** Axes of a finished kernel: as few as its views allow, so that loops are long and code is shared between shapes. */
import type { Affine, ContractKernel, Kernel, Product } from "./backend.ts";
import { sameShape } from "./shape.ts";

/** Re-expresses strides over `space` as strides over `shape` (same row-major order), or null if some view cannot. */
export function conform(space: readonly number[], shape: readonly number[], views: readonly Affine[]): (readonly number[])[] | null {
  if (sameShape(space, shape)) return views.map((v) => v.strides);
  const out: number[][] = [];
  for (const v of views) {
    const strides: number[] = [];
    let s = 0;
    for (const d of shape) {
      let p = 1;
      const group: number[] = [];
      while (p < d && s < space.length) { p *= space[s]; group.push(s++); }
      if (p !== d) return null;
      while (s < space.length && space[s] === 1) s++;
      const live = group.filter((g) => space[g] > 1);
      for (let i = 0; i + 1 < live.length; i++) if (v.strides[live[i]] !== v.strides[live[i + 1]] * space[live[i + 1]]) return null;
      strides.push(live.length ? v.strides[live[live.length - 1]] : 0);
    }
    if (s < space.length) return null;
    out.push(strides);
  }
  return out;
}

type Collapsible = Extract<Kernel, { kind: "map" | "rows" | "cols" }>;
/** Drops axes of size 1 and merges neighbours wherever every view allows it; never across a `wall`. */
export function collapse<K extends Collapsible>(k: K, walls: readonly number[]): K {
  const strides: (readonly number[])[] = [];
  for (const v of k.loads) strides.push(v.strides);
  for (const v of k.affines) strides.push(v.strides);
  for (const s of k.stores) strides.push(s.view.strides);
  const follows = (p: number, s: number): boolean => {
    for (const v of strides) if (v[p] !== v[s] * k.shape[s]) return false;
    return true;
  };
  /** axes that become one, and the walls' section that they are in */
  const groups: { readonly axes: number[]; readonly section: number }[] = [];
  let section = 0;
  for (let s = 0; s < k.shape.length; s++) {
    while (section < walls.length && s >= walls[section]) section++;
    if (k.shape[s] === 1 && k.shape.length > 1) continue;
    const last = groups[groups.length - 1];
    if (last?.section === section && follows(last.axes[last.axes.length - 1], s)) last.axes.push(s);
    else groups.push({ axes: [s], section });
  }
  // each section between walls keeps at least one axis
  const bounds = [0, ...walls, k.shape.length], sizes: number[] = [], keep: number[][] = [];
  for (let i = 0; i + 1 < bounds.length; i++) {
    const before = keep.length;
    for (const g of groups) if (g.section === i) keep.push(g.axes);
    if (keep.length === before && bounds[i + 1] > bounds[i] && (k.kind === "cols" ? i === 1 : true)) keep.push([bounds[i]]);
    sizes.push(keep.length - before);
  }
  if (keep.length === 0) keep.push([0]);
  const pick = <V extends Affine>(v: V): V => ({ ...v, strides: keep.map((g) => (g.length === 1 && k.shape[g[0]] === 1 ? 0 : v.strides[g[g.length - 1]])) });
  const moved = {
    shape: keep.map((g) => g.reduce((n, s) => n * k.shape[s], 1)),
    loads: k.loads.map(pick), affines: k.affines.map(pick), stores: k.stores.map((s) => ({ ...s, view: pick(s.view) })),
  };
  if (k.kind === "rows") return { ...k, ...moved, rowAxes: sizes[1] };
  if (k.kind === "cols") return { ...k, ...moved, outerAxes: sizes[0], reducedAxes: sizes[1] };
  return { ...k, ...moved };
}

/** Merges batch axes that every view allows, and folds a batch into the rows when no b depends on it. */
export function mergeBatch(k: ContractKernel, lead: number, m: number, n: number): ContractKernel {
  if (lead === 0) return k;
  let batch = k.shape.slice(0, lead), rows = m;
  const products: readonly Product[] = [k, ...(k.more ?? [])], wide = [...k.loads, ...k.affines, ...k.stores.map((s) => s.view)];
  let left = [...products.map((p) => p.a), ...wide].map((v) => v.strides), right = products.map((p) => p.b.strides);
  const without = (x: readonly number[], i: number): readonly number[] => [...x.slice(0, i), ...x.slice(i + 1)];
  const drop = (i: number): void => { left = left.map((v) => without(v, i)); right = right.map((v) => without(v, i)); batch = [...without(batch, i)]; };
  for (let i = batch.length - 1; i >= 0; i--) if (batch[i] === 1) drop(i);
  while (batch.length) {
    const i = batch.length - 1;
    if (!right.every((v) => v[i] === 0) || (rows > 1 && !left.every((v) => v[i] === v[i + 1] * rows))) break;
    if (rows === 1) left = left.map((v) => [...v.slice(0, i + 1), v[i], ...v.slice(i + 2)]);      // the rows are the batch
    rows *= batch[i];
    drop(i);
  }
  for (let i = batch.length - 2; i >= 0; i--) {
    if (![...left, ...right].every((v) => v[i] === v[i + 1] * batch[i + 1])) continue;
    batch[i + 1] *= batch[i];
    drop(i);
  }
  const at = <V extends Affine>(v: V, strides: readonly number[]): V => ({ ...v, strides });
  const [first, ...more] = products.map((p, i): Product => ({ k: p.k, a: at(p.a, left[i]), b: at(p.b, right[i]) }));
  const rest = left.slice(products.length), affines = rest.slice(k.loads.length), stores = affines.slice(k.affines.length);
  return {
    ...k, shape: [...batch, rows, n], ...first, ...(more.length ? { more } : {}),
    loads: k.loads.map((v, i) => at(v, rest[i])), affines: k.affines.map((v, i) => at(v, affines[i])),
    stores: k.stores.map((s, i) => ({ ...s, view: at(s.view, stores[i]) })),
  };
}
