/**
 * The dynamic 8-bit map as a formula, so that states are decoded and encoded inside the step's own kernels.
 *
 * bitsandbytes's map has seven decades; decade i holds n = 2^i (signed) or 2^(i+1) (unsigned) numbers 10^(i-6)(0.1 + 0.9(j + ½)/n),
 * and beside them 0 and 1; sorted, a code is its own search: 127 ± (n + j) signed, n - 1 + j unsigned.
 */
import { type Expr, type Op, type Tensor, literal, record } from "@adjoint/tensor";

interface Decade {
  /** numbers in the decade */
  readonly n: number;
  /** width of a number's cell: 0.9 · 10^(i-6) / n */
  readonly w: number;
  /** the smallest magnitude that is nearer to this decade than to the one below */
  readonly from: number;
}
const decadesOf = (signed: boolean): readonly Decade[] => Array.from({ length: 7 }, (_, i) => {
  const n = 2 ** (signed ? i : i + 1), unit = 10 ** (i - 6);
  return { n, w: (0.9 * unit) / n, from: i === 0 ? (unit * (0.1 + 0.45 / n)) / 2 : (unit / 10) * (1 + 1.8 / n) };
});
const decades: Readonly<Record<"signed" | "unsigned", readonly Decade[]>> = { signed: decadesOf(true), unsigned: decadesOf(false) };
export type Map8 = "signed" | "unsigned";

/** The code of 0. */
export const zeroCode = (map: Map8): number => (map === "signed" ? 127 : 0);

interface MapAttrs { readonly map: Map8 }
const mapOf = (attrs: unknown): Map8 => (attrs as MapAttrs).map;

/** The 256 numbers of a map, which bitsandbytes keeps as qmap1 and qmap2. */
export function dynamicMap(map: Map8): Float32Array {
  const signed = map === "signed";
  return Float32Array.from({ length: 256 }, (_, code) => {
    const d = signed ? code - 127 : code, k = signed ? Math.abs(d) : d + 1, { n, w } = decades[map].findLast((x) => k >= x.n) ?? decades[map][0];
    const size = k < (signed ? 1 : 2) ? 0 : k >= (signed ? 128 : 256) ? 1 : (k - n + 0.5 + n / 9) * w;
    return d < 0 ? -size : size;
  });
}

/** One number a decade, chosen by thresholds on x. */
const chosen = (x: Expr, map: Map8, from: (d: Decade) => number, value: (d: Decade) => number): Expr =>
  decades[map].slice(1).reduce((y, d) => x.ge(from(d)).select(literal(value(d)), y), literal(value(decades[map][0])));

function decode(codes: Expr, map: Map8): Expr {
  const c = codes.toF(), signed = map === "signed", d = signed ? c.sub(127) : c, k = signed ? d.abs() : d.add(1);
  const n = chosen(k, map, (x) => x.n, (x) => x.n), w = chosen(k, map, (x) => x.n, (x) => x.w);
  const inside = k.sub(n).add(0.5).add(n.mul(1 / 9)).mul(w), size = k.lt(signed ? 0.5 : 1.5).select(0, k.ge(signed ? 128 : 256).select(1, inside));
  return signed ? d.lt(0).select(size.neg(), size) : size;
}
function encode(x: Expr, map: Map8): Expr {
  const signed = map === "signed", a = x.abs(), n = chosen(a, map, (d) => d.from, (d) => d.n), scale = chosen(a, map, (d) => d.from, (d) => 1 / d.w);
  const cell = a.mul(scale).sub(n.mul(1 / 9)).floor().max(0).min(n.sub(1)), top = a.ge(1 - 0.225 / decades[map][6].n);
  const k = a.lt(decades[map][0].from).select(0, top.select(signed ? 128 : 256, n.add(cell)));
  return (signed ? x.lt(0).select(k.max(1).min(127).neg(), k).add(127) : k.sub(1).max(0)).toI();
}

const decodeOp: Op = { name: "decodeDynamic", kind: "map", forward: ([codes], { attrs }) => decode(codes, mapOf(attrs)), vjp: () => [null] };
const encodeOp: Op = { name: "encodeDynamic", kind: "map", forward: ([x], { attrs }) => encode(x, mapOf(attrs)), vjp: () => [null] };

/** Numbers in [-1, 1] of codes (u8), in `dtype`. */
export const decodeDynamic = (codes: Tensor, map: Map8, dtype: "f32" | "f64" = "f32"): Tensor => record(decodeOp, [codes], { map } satisfies MapAttrs, codes.shape, dtype);

/** Codes (u8) of the nearest numbers for x in [-1, 1]. A negative x never becomes 0 (its sign is kept, as in bitsandbytes's kernels). */
export const encodeDynamic = (x: Tensor, map: Map8): Tensor => record(encodeOp, [x], { map } satisfies MapAttrs, x.shape, "u8");
