/**
 * The dynamic 8-bit map as a formula, so that states are decoded and encoded inside the step's own kernels.
 *
 * bitsandbytes's map has seven decades; decade i holds n = 2^i (signed) or 2^(i+1) (unsigned) numbers 10^(i-6)(0.1 + 0.9(j + ½)/n), and beside them 0 and 1; sorted, the
 * k-th from 0 on is j = k - n of its decade. From one decade to the next cells become five times as wide: sizes are a convex function of k, the largest of seven lines,
 * and k is a concave one of the size, the smallest of eleven or thirteen. No comparison, no look-up.
 */
import { type Expr, type Op, type Tensor, record } from "@adjoint/tensor";

interface Decade { /** numbers in the decade */ readonly n: number; /** width of a number's cell */ readonly w: number }
const decadesOf = (signed: boolean): readonly Decade[] => Array.from({ length: 7 }, (_, i) => {
  const n = 2 ** (signed ? i : i + 1);
  return { n, w: (0.9 * 10 ** (i - 6)) / n };
});
const decades: Readonly<Record<"signed" | "unsigned", readonly Decade[]>> = { signed: decadesOf(true), unsigned: decadesOf(false) };
export type Map8 = "signed" | "unsigned";

/** k of the number 0, and of 1. */
const ends: Readonly<Record<Map8, readonly [zero: number, one: number]>> = { signed: [0, 128], unsigned: [1, 256] };
/** The code of 0. */
export const zeroCode = (map: Map8): number => (map === "signed" ? 127 : 0);

interface MapAttrs { readonly map: Map8 }
const mapOf = (attrs: unknown): Map8 => (attrs as MapAttrs).map;

/** The k-th number: (k - n + ½ + n/9) w, the largest over decades; 9k - 8n + 4½ is exact in f32. */
const sizeAt = (k: number, map: Map8): number => (k === ends[map][0] ? 0 : k === ends[map][1] ? 1 : Math.max(...decades[map].map(({ n, w }) => (9 * k - 8 * n + 4.5) * (w / 9))));

/** The 256 numbers of a map, which bitsandbytes keeps as qmap1 and qmap2. */
export const dynamicMap = (map: Map8): Float32Array => Float32Array.from({ length: 256 }, (_, code) => (map === "signed" ? Math.sign(code - 127) * sizeAt(Math.abs(code - 127), map) : sizeAt(code + 1, map)));

function decode(codes: Expr, map: Map8): Expr {
  const c = codes.toF(), d = c.sub(127), k = map === "signed" ? d.abs() : c.add(1), nine = k.mul(9);
  const size = decades[map].map(({ n, w }) => nine.add(4.5 - 8 * n).mul(w / 9)).reduce((a, b) => a.max(b)).max(0).min(1);
  return map === "signed" ? size.mul(d.max(-1).min(1)) : size;
}

interface Point { readonly x: number; readonly y: number }
interface Line { readonly slope: number; readonly at0: number }
/** Lines whose smallest passes through every point of a concave run: chords of neighbours, from the last point on, each along as many points as lie on it. */
function linesThrough(points: readonly Point[]): readonly Line[] {
  const chord = (i: number): number => (points[i].y - points[i - 1].y) / (points[i].x - points[i - 1].x), lines: Line[] = [];
  for (let i = points.length - 1; i >= 0; i--) {
    const last = Math.max(1, i), slope = chord(last);
    lines.push({ slope, at0: points[last].y - slope * points[last].x });
    while (i > 0 && Math.abs(chord(i) / slope - 1) < 1e-9) i--;
  }
  return lines;
}
/** Lines to find the nearest number: their smallest is k half-way between the sizes of k - 1 and k, so that its whole part is k. Only towards 1 cells are narrow again: there it is the line `last`, where that is larger. */
const searchOf = (map: Map8): { readonly lines: readonly Line[]; readonly last: Line } => {
  const [zero, one] = ends[map], half = (k: number): Point => ({ x: (sizeAt(k - 1, map) + sizeAt(k, map)) / 2, y: k }), end = half(one), slope = 2 / (end.x - half(one - 1).x);
  return { lines: linesThrough(Array.from({ length: one - zero - 1 }, (_, i) => half(zero + 1 + i))), last: { slope, at0: one - slope * end.x } };
};
const searches = { signed: searchOf("signed"), unsigned: searchOf("unsigned") };

function encode(x: Expr, map: Map8): Expr {
  const { lines, last } = searches[map], [, one] = ends[map], a = map === "signed" ? x.abs() : x, along = ({ slope, at0 }: Line): Expr => a.mul(slope).add(at0);
  const k = lines.map(along).reduce((p, q) => p.min(q)).max(along(last)).min(one);
  return (map === "signed" ? x.lt(0).select(k.floor().max(1).min(127).neg(), k).add(127) : k.sub(1)).toI();
}

const decodeOp: Op = { name: "decodeDynamic", kind: "map", forward: ([codes], { attrs }) => decode(codes, mapOf(attrs)), vjp: () => [null] };
const encodeOp: Op = { name: "encodeDynamic", kind: "map", forward: ([x], { attrs }) => encode(x, mapOf(attrs)), vjp: () => [null] };

/** Numbers in [-1, 1] of codes (u8), in `dtype`. */
export const decodeDynamic = (codes: Tensor, map: Map8, dtype: "f32" | "f64" = "f32"): Tensor => record(decodeOp, [codes], { map } satisfies MapAttrs, codes.shape, dtype);

/** Codes (u8) of the nearest numbers for x in [-1, 1]. A negative x never becomes 0 (its sign is kept, as in bitsandbytes's kernels). */
export const encodeDynamic = (x: Tensor, map: Map8): Tensor => record(encodeOp, [x], { map } satisfies MapAttrs, x.shape, "u8");
