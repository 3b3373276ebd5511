/** Shape arithmetic: sizes, strides, broadcasting, axes; everything that is checked eagerly. */
import { ShapeError } from "./errors.ts";

export type Shape = readonly number[];
export const MAX_RANK = 6;

export const sizeOf = (shape: Shape): number => shape.reduce((a, b) => a * b, 1);
export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((d, i) => d === b[i]);
export const show = (shape: Shape): string => `[${shape.join(", ")}]`;

/** Row-major strides in elements. */
export function rowMajor(shape: Shape): number[] {
  const out = new Array<number>(shape.length);
  for (let i = shape.length - 1, s = 1; i >= 0; i--) { out[i] = s; s *= shape[i]; }
  return out;
}

/** Positive integers, at most six of them. */
export function checkShape(op: string, shape: Shape): Shape {
  if (shape.length > MAX_RANK) throw new ShapeError(`${op}: rank ${shape.length} of ${show(shape)} exceeds ${MAX_RANK}`, { op, shapes: [shape] });
  shape.forEach((d, i) => {
    if (!Number.isInteger(d) || d < 1) throw new ShapeError(`${op}: axis ${i} of ${show(shape)} has size ${d}; every axis needs a positive integer`, { op, shapes: [shape], value: d });
  });
  return shape;
}

/** Non-negative axis number; -1 is the last. */
export function axisOf(op: string, axis: number, rank: number): number {
  const a = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || a < 0 || a >= rank) throw new ShapeError(`${op}: axis ${axis} does not exist in a tensor of rank ${rank}`, { op, value: axis });
  return a;
}

/** Sorted unique axes; undefined means all. */
export function axesOf(op: string, axes: number | readonly number[] | undefined, rank: number): number[] {
  if (axes === undefined) return Array.from({ length: rank }, (_, i) => i);
  const list = (typeof axes === "number" ? [axes] : [...axes]).map((a) => axisOf(op, a, rank)).sort((a, b) => a - b);
  list.forEach((a, i) => { if (i && list[i - 1] === a) throw new ShapeError(`${op}: axis ${a} is named twice`, { op, value: a }); });
  return list;
}

/** NumPy broadcasting of any number of shapes. */
export function broadcastShapes(op: string, shapes: readonly Shape[], names: readonly (string | undefined)[] = []): number[] {
  const rank = Math.max(0, ...shapes.map((s) => s.length));
  const out = new Array<number>(rank).fill(1);
  for (let i = 0; i < rank; i++) {
    for (const s of shapes) {
      const d = s[i - rank + s.length] ?? 1;
      if (d === 1 || d === out[i]) continue;
      if (out[i] !== 1) {
        const rows = shapes.map((x, j) => `  ${names[j] ?? String.fromCharCode(97 + j)}  ${show(x)}`).join("\n");
        throw new ShapeError(`${op}: shapes do not broadcast\n${rows}\n  axis ${i - rank}: ${out[i]} ≠ ${d}`, { op, shapes, value: i - rank });
      }
      out[i] = d;
    }
  }
  return out;
}

/** Refuses sizes or axes that are not in a list. @throws ShapeError */
export function listed(op: string, list: readonly number[]): void {
  const given: unknown = list;
  if (!Array.isArray(given)) throw new ShapeError(`${op}: sizes and axes come as one list, got ${String(given)}`, { op, value: given, fix: `write x.${op}([...])` });
}
/** Fills one -1 in a reshape target. */
export function resolveReshape(from: Shape, to: Shape): number[] {
  listed("reshape", to);
  const n = sizeOf(from), hole = to.indexOf(-1);
  if (hole >= 0) {
    const rest = to.reduce((a, d, i) => (i === hole ? a : a * d), 1);
    if (to.indexOf(-1, hole + 1) >= 0) throw new ShapeError(`reshape: only one axis of ${show(to)} may be -1`, { op: "reshape", shapes: [from, to] });
    const d = n / rest;
    if (!Number.isInteger(d)) throw new ShapeError(`reshape: ${show(from)} has ${n} values, which ${show(to)} cannot hold`, { op: "reshape", shapes: [from, to] });
    return to.map((x, i) => (i === hole ? d : x));
  }
  if (sizeOf(to) !== n) throw new ShapeError(`reshape: ${show(from)} has ${n} values, ${show(to)} wants ${sizeOf(to)}`, { op: "reshape", shapes: [from, to] });
  return [...to];
}
