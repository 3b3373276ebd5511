/** Affine maps from a kernel's iteration space to the index of a node, and how they pass through views. */
import type { Affine } from "./backend.ts";
import { rowMajor, type Shape, sizeOf } from "./shape.ts";
import type { PermuteAttrs, SliceAttrs } from "./ops/views.ts";
import type { NodeLike } from "./tensor.ts";

/** index[d] = offset[d] + Σ_s coef[d][s]·i_s */
export interface IndexMap { readonly offset: readonly number[]; readonly coef: readonly (readonly number[])[] }
/** The view cannot be crossed unless space axis `axis` is split into (size / low, low). */
export interface Refine { readonly axis: number; readonly low: number }

export function identityMap(shape: Shape): IndexMap {
  const offset: number[] = [], coef: number[][] = [];
  for (let d = 0; d < shape.length; d++) {
    const row = new Array<number>(shape.length).fill(0);
    if (shape[d] > 1) row[d] = 1;
    offset.push(0);
    coef.push(row);
  }
  return { offset, coef };
}
export function sameMap(a: IndexMap, b: IndexMap): boolean {
  if (a === b) return true;
  if (a.offset.length !== b.offset.length) return false;
  for (let d = 0; d < a.offset.length; d++) {
    const x = a.coef[d], y = b.coef[d];
    if (a.offset[d] !== b.offset[d]) return false;
    if (x !== y) for (let s = 0; s < x.length; s++) if (x[s] !== y[s]) return false;
  }
  return true;
}

/** Row-major element position of the mapped index. */
export function linear(m: IndexMap, shape: Shape, rank: number, strides: readonly number[] = rowMajor(shape)): Affine {
  const out = new Array<number>(rank).fill(0);
  let offset = 0;
  for (let d = 0; d < m.offset.length; d++) {
    const stride = strides[d], coef = m.coef[d];
    offset += m.offset[d] * stride;
    for (let s = 0; s < rank; s++) out[s] += coef[s] * stride;
  }
  return { offset, strides: out };
}
/** Whether the map enumerates a node of this size exactly in the space's own row-major order. */
export function isLinear(m: IndexMap, shape: Shape, space: readonly number[]): boolean {
  if (sizeOf(shape) !== sizeOf(space)) return false;
  const { offset, strides } = linear(m, shape, space.length);
  if (offset !== 0) return false;
  for (let s = space.length - 1, want = 1; s >= 0; want *= space[s--]) if (space[s] !== 1 && strides[s] !== want) return false;
  return true;
}
/** Splits space axis `axis` of size n into (n / low, low). */
export const refineMap = (m: IndexMap, { axis, low }: Refine): IndexMap => ({ offset: m.offset, coef: m.coef.map((c) => [...c.slice(0, axis), c[axis] * low, c[axis], ...c.slice(axis + 1)]) });

/** The map to the view's input, the refinement that would make one, or null. */
export function throughView(view: NodeLike & { readonly inputs: readonly { readonly shape: Shape }[] }, m: IndexMap, space: readonly number[]): IndexMap | Refine | null {
  const from = view.inputs[0].shape;
  switch (view.op.name) {
    case "expand": {
      const lead = view.shape.length - from.length, zero = new Array<number>(space.length).fill(0);
      return { offset: from.map((d, i) => (d === 1 ? 0 : m.offset[i + lead])), coef: from.map((d, i) => (d === 1 ? zero : m.coef[i + lead])) };
    }
    case "permute": {
      const { axes } = view.attrs as PermuteAttrs;
      const offset: number[] = [], coef: (readonly number[])[] = [];
      axes.forEach((axis, i) => { offset[axis] = m.offset[i]; coef[axis] = m.coef[i]; });
      return { offset, coef };
    }
    case "slice": {
      const { start } = view.attrs as SliceAttrs;
      return { offset: m.offset.map((o, i) => o + start[i]), coef: m.coef };
    }
    case "reshape": return throughReshape(view.shape, from, m, space);
    default: return m;
  }
}

/** Where in its input's memory a view's run of elements begins, for views that keep elements in order and without gaps; else null. */
export function startOf(view: NodeLike & { readonly inputs: readonly { readonly shape: Shape }[] }): number | null {
  switch (view.op.name) {
    case "expand": case "permute": return null;
    case "slice": {
      const { start } = view.attrs as SliceAttrs, from = view.inputs[0].shape, cut = from.findIndex((d, i) => d !== view.shape[i]);
      return from.some((d, i) => i < cut && d > 1) || from.some((d, i) => i > cut && d !== view.shape[i]) ? null : start[cut] * sizeOf(from.slice(cut + 1));
    }
    default: return 0;
  }
}

function throughReshape(out: Shape, from: Shape, m: IndexMap, space: readonly number[]): IndexMap | Refine | null {
  const offset = new Array<number>(from.length).fill(0), coef = from.map(() => new Array<number>(space.length).fill(0));
  let o = 0, i = 0;
  while (o < out.length || i < from.length) {
    // one group: the shortest runs of axes with equal products
    const o0 = o, i0 = i;
    let po = o < out.length ? out[o++] : 1, pi = i < from.length ? from[i++] : 1;
    if (po === pi && o > o0 && i > i0) {   // one axis each: it stays as it is
      let top = m.offset[o0] % pi;
      const terms = m.coef[o0];
      offset[i0] = top;
      for (let s = 0; s < space.length; s++) {
        const c = terms[s];
        if (c === 0 || space[s] === 1) continue;
        if (c >= pi) return null;
        coef[i0][s] = c;
        top += c * (space[s] - 1);
      }
      if (top >= pi) return null;
      continue;
    }
    while (po !== pi) { if (po < pi) po *= out[o++]; else pi *= from[i++]; }
    const so = rowMajor(out.slice(o0, o)), si = rowMajor(from.slice(i0, i));
    let base = 0;
    const terms = new Array<number>(space.length).fill(0);
    for (let a = o0; a < o; a++) {
      base += m.offset[a] * so[a - o0];
      const stride = so[a - o0], c = m.coef[a];
      for (let s = 0; s < terms.length; s++) terms[s] += c[s] * stride;
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
