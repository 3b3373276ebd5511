/** Affine maps from a kernel's iteration space to the index of a node, and how they pass through views. */
import type { Affine } from "./backend.ts";
import { rowMajor, type Shape } from "./shape.ts";
import type { PermuteAttrs, SliceAttrs } from "./ops/views.ts";
import type { NodeLike } from "./tensor.ts";

/** index[d] = offset[d] + Σ_s coef[d][s]·i_s */
export interface IndexMap { readonly offset: readonly number[]; readonly coef: readonly (readonly number[])[] }
/** The view cannot be crossed unless space axis `axis` is split into (size / low, low). */
export interface Refine { readonly axis: number; readonly low: number }

export const identityMap = (shape: Shape): IndexMap => ({ offset: shape.map(() => 0), coef: shape.map((d, i) => shape.map((_, j) => (i === j && d > 1 ? 1 : 0))) });
export const sameMap = (a: IndexMap, b: IndexMap): boolean => a.offset.length === b.offset.length && a.offset.every((x, d) => x === b.offset[d] && a.coef[d].every((c, s) => c === b.coef[d][s]));
export const mapKey = (m: IndexMap): string => m.offset.map((o, d) => `${o}:${m.coef[d].join(",")}`).join("|");

/** Row-major element position of the mapped index. */
export function linear(m: IndexMap, shape: Shape, rank: number, strides: readonly number[] = rowMajor(shape)): Affine {
  let offset = 0;
  const out = new Array<number>(rank).fill(0);
  m.offset.forEach((o, d) => {
    offset += o * strides[d];
    for (let s = 0; s < rank; s++) out[s] += m.coef[d][s] * strides[d];
  });
  return { offset, strides: out };
}
/** Whether the map enumerates a node of this size exactly in the space's own row-major order. */
export function isLinear(m: IndexMap, shape: Shape, space: readonly number[]): boolean {
  const l = linear(m, shape, space.length), want = rowMajor(space);
  return l.offset === 0 && shape.reduce((a, b) => a * b, 1) === space.reduce((a, b) => a * b, 1) && space.every((d, s) => d === 1 || l.strides[s] === want[s]);
}
/** Splits space axis `axis` of size n into (n / low, low). */
export const refineMap = (m: IndexMap, { axis, low }: Refine): IndexMap => ({ offset: m.offset, coef: m.coef.map((c) => [...c.slice(0, axis), c[axis] * low, c[axis], ...c.slice(axis + 1)]) });

/** The map to the view's input, the refinement that would make one, or null. */
export function throughView(view: NodeLike & { readonly inputs: readonly { readonly shape: Shape }[] }, m: IndexMap, space: readonly number[]): IndexMap | Refine | null {
  const from = view.inputs[0].shape, zero = space.map(() => 0);
  switch (view.op.name) {
    case "expand": {
      const lead = view.shape.length - from.length;
      return { offset: from.map((d, i) => (d === 1 ? 0 : m.offset[i + lead])), coef: from.map((d, i) => (d === 1 ? zero : m.coef[i + lead])) };
    }
    case "permute": {
      const { axes } = view.attrs as PermuteAttrs;
      return { offset: from.map((_, i) => m.offset[axes.indexOf(i)]), coef: from.map((_, i) => m.coef[axes.indexOf(i)]) };
    }
    case "slice": {
      const { start } = view.attrs as SliceAttrs;
      return { offset: m.offset.map((o, i) => o + start[i]), coef: m.coef };
    }
    case "reshape": return throughReshape(view.shape, from, m, space);
    default: return m;
  }
}

function throughReshape(out: Shape, from: Shape, m: IndexMap, space: readonly number[]): IndexMap | Refine | null {
  const offset = new Array<number>(from.length).fill(0), coef = from.map(() => space.map(() => 0));
  let o = 0, i = 0;
  while (o < out.length || i < from.length) {
    // one group: the shortest runs of axes with equal products
    const o0 = o, i0 = i;
    let po = o < out.length ? out[o++] : 1, pi = i < from.length ? from[i++] : 1;
    while (po !== pi) { if (po < pi) po *= out[o++]; else pi *= from[i++]; }
    const so = rowMajor(out.slice(o0, o)), si = rowMajor(from.slice(i0, i));
    let base = 0;
    const terms = space.map(() => 0);
    for (let a = o0; a < o; a++) {
      base += m.offset[a] * so[a - o0];
      m.coef[a].forEach((c, s) => { terms[s] += c * so[a - o0]; });
    }
    // every term goes to the input axis whose stride divides it
    const top = new Array<number>(i - i0).fill(0);
    for (let a = i0; a < i; a++) {
      offset[a] = Math.floor(base / si[a - i0]) % from[a];
      top[a - i0] = offset[a];
    }
    for (let s = 0; s < space.length; s++) {
      const c = terms[s];
      if (c === 0 || space[s] === 1) continue;
      let a = i0;
      while (a < i - 1 && (si[a - i0] > c || c % si[a - i0] !== 0)) a++;
      if (c % si[a - i0] !== 0) return null;
      const limit = si[a - i0] * from[a];
      if (c >= limit) return null;
      if (c * space[s] > limit && a > i0 && c * (space[s] - 1) >= limit) {
        const low = limit / c;
        if (!Number.isInteger(low) || space[s] % low !== 0) return null;
        return { axis: s, low };
      }
      coef[a][s] += c / si[a - i0];
      top[a - i0] += (c / si[a - i0]) * (space[s] - 1);
    }
    if (top.some((t, a) => t >= from[i0 + a])) return null;   // digits would carry
  }
  return { offset, coef };
}
