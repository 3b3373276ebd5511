/**
 * The dynamic 8-bit map as a formula, so that states are decoded and encoded inside the step's own kernels.
 *
 * bitsandbytes's map has seven decades; decade i holds n = 2^i (signed) or 2^(i+1) (unsigned) numbers 10^(i-6)(0.1 + 0.9(j + ½)/n),
 * and beside them 0 and 1; sorted, a code is its own search: 127 ± (n + j) signed, n - 1 + j unsigned.
 */
import { type Tensor, scalar } from "@adjoint/tensor";

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

/** One number a decade, chosen by thresholds on x. */
const chosen = (x: Tensor, map: Map8, from: (d: Decade) => number, value: (d: Decade) => number): Tensor =>
  decades[map].slice(1).reduce((y, d) => x.ge(from(d)).where(value(d), y), scalar(value(decades[map][0]), x.dtype));

/** Numbers in [-1, 1] of codes (u8), in `dtype`. */
export function decodeDynamic(codes: Tensor, map: Map8, dtype: "f32" | "f64" = "f32"): Tensor {
  const c = codes.cast(dtype), signed = map === "signed", d = signed ? c.sub(127) : c, k = signed ? d.abs() : d.add(1);
  const n = chosen(k, map, ({ n: m }) => m, ({ n: m }) => m), w = chosen(k, map, ({ n: m }) => m, ({ w: x }) => x);
  const inside = k.sub(n).add(0.5).add(n.mul(1 / 9)).mul(w), top = k.ge(signed ? 128 : 256), none = k.lt(signed ? 0.5 : 1.5);
  const size = none.where(0, top.where(1, inside));
  return signed ? d.lt(0).where(size.neg(), size) : size;
}

/** Codes (u8) of the nearest numbers for x in [-1, 1]. A negative x never becomes 0 (its sign is kept, as in bitsandbytes's kernels). */
export function encodeDynamic(x: Tensor, map: Map8): Tensor {
  const signed = map === "signed", a = x.abs(), n = chosen(a, map, (d) => d.from, (d) => d.n), scale = chosen(a, map, (d) => d.from, (d) => 1 / d.w);
  const cell = a.mul(scale).sub(n.mul(1 / 9)).floor().maximum(0).minimum(n.sub(1)), { n: last } = decades[map][6], top = a.ge(1 - 0.225 / last);
  const k = a.lt(decades[map][0].from).where(0, top.where(signed ? 128 : 256, n.add(cell)));
  if (!signed) return k.sub(1).maximum(0).cast("u8");
  return x.lt(0).where(k.maximum(1).minimum(127).neg(), k).add(127).cast("u8");
}
