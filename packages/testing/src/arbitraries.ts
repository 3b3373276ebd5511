/**
 * What property tests draw: small shapes with odd sizes, values on a dyadic grid, layouts, trees.
 *
 * Values are k/16, never uniform over bit patterns (most of which are tiny, so that broken gradients pass); axes are 1,
 * 2, 3 and a few odd sizes, because some faults show only where sizes are equal and others only where something is 1.
 */
import fc from "fast-check";
import { type DType, type Domain, type HostArray, encode, hostArray, printArray, sizeOf, threefry } from "@adjoint/tensor";

/** Axis sizes: mostly 1, 2, 3; sometimes odd ones around vector widths. */
export const axisSizes: fc.Arbitrary<number> = fc.oneof({ arbitrary: fc.constantFrom(1, 2, 3), weight: 8 }, { arbitrary: fc.constantFrom(5, 7, 9, 17), weight: 1 });

/** Shapes of rank minRank to maxRank with at most `limit` values. */
export function shapes({ minRank = 0, maxRank = 4, limit = 600, axis = axisSizes }: { minRank?: number; maxRank?: number; limit?: number; axis?: fc.Arbitrary<number> } = {}): fc.Arbitrary<number[]> {
  return fc.array(axis, { minLength: minRank, maxLength: maxRank }).filter((s) => sizeOf(s) <= limit);
}

/** The shape with some axes turned to 1 and some leading axes dropped: what broadcasts to it. */
export const narrowed = (shape: readonly number[]): fc.Arbitrary<number[]> =>
  fc.tuple(fc.nat(shape.length), fc.array(fc.boolean(), { minLength: shape.length, maxLength: shape.length }))
    .map(([drop, ones]) => shape.map((d, i) => (ones[i] ? 1 : d)).slice(drop));

/** A pair of shapes that broadcast, and the result. */
export const broadcastPairs: fc.Arbitrary<{ a: number[]; b: number[]; result: number[] }> = shapes({ maxRank: 4, limit: 200 })
  .chain((shape) => fc.tuple(narrowed(shape), narrowed(shape)).map(([a, b]) => ({ a, b, result: resultOf(a, b) })));
const resultOf = (a: readonly number[], b: readonly number[]): number[] => {
  const rank = Math.max(a.length, b.length), at = (s: readonly number[], i: number): number => s[i - rank + s.length] ?? 1;
  return Array.from({ length: rank }, (_, i) => Math.max(at(a, i), at(b, i)));
};

/** An order of 0 ... rank-1. */
export const orders = (rank: number): fc.Arbitrary<number[]> => fc.shuffledSubarray(Array.from({ length: rank }, (_, i) => i), { minLength: rank, maxLength: rank });

/** Numbers of a tensor before their dtype is chosen: "float" becomes f32 or f64 as the law needs. */
export interface Draw { readonly shape: readonly number[]; readonly dtype: DType | "float"; readonly values: readonly number[] }

const reals: Domain = { low: -3, high: 3 };
const STEP = 16;

/** One value of the domain on the grid k/16 (an integer if the domain says so), at least 1/8 away from what it avoids. */
export function gridValues({ low, high, integer = false, avoid = [] }: Domain = reals): fc.Arbitrary<number> {
  if (integer) return fc.integer({ min: low, max: high }).filter((x) => !avoid.includes(x));
  return fc.integer({ min: Math.ceil(low * STEP), max: Math.floor(high * STEP) }).map((k) => k / STEP).filter((x) => avoid.every((y) => Math.abs(x - y) >= 0.125));
}

/** Values of a shape from a domain. */
export const draws = (shape: readonly number[], domain: Domain = reals): fc.Arbitrary<Draw> =>
  fc.array(gridValues(domain), { minLength: sizeOf(shape), maxLength: sizeOf(shape) })
    .map((values) => ({ shape, dtype: domain.dtype ?? "float", values }));

/** Many values at once: on the grid, from one seed, so that large tensors draw and shrink quickly. */
export const bulk = (shape: readonly number[], { low, high, integer = false, dtype = "float" }: Pick<Domain, "low" | "high" | "integer"> & { readonly dtype?: Draw["dtype"] } = reals): fc.Arbitrary<Draw> =>
  fc.nat(1000).map((seed): Draw => {
    const steps = integer ? high - low : (high - low) * STEP;
    return { shape, dtype, values: Array.from({ length: sizeOf(shape) }, (_, i) => low + (threefry(seed, 0, i, 0)[0] % (steps + 1)) / (integer ? 1 : STEP)) };
  });

/** Row ids in [0, limit). */
export const ids = (shape: readonly number[], limit: number): fc.Arbitrary<Draw> => draws(shape, { low: 0, high: limit - 1, integer: true, dtype: "i32" });

/** A draw as an array of its dtype; floats become `float`. */
export function hostOf({ shape, dtype, values }: Draw, float: DType): HostArray {
  const as = dtype === "float" ? float : dtype, data = hostArray(as, values.length);
  values.forEach((x, i) => { data[i] = encode(as, x); });
  return { dtype: as, shape, data };
}

/**
 * Makes float values of several draws pairwise distinct by at least 2^-11, so that no difference steps over a tie of
 * maximum or a kink (positions repeat after 127 values, which lie on other grid points in nearly every case).
 */
export function distinct(inputs: readonly Draw[]): Draw[] {
  let position = 0;
  return inputs.map((d) => (d.dtype !== "float" ? d : { ...d, values: d.values.map((x) => x + ((position++ % 127) + 1) * 2 ** -11) }));
}

/** Readable text of a draw, for counterexamples. */
export function showDraw(d: Draw): string {
  const { dtype, shape, data } = hostOf(d, "f64");
  return `${d.dtype}[${shape.join(", ")}] ${printArray({ dtype, shape, data }, { precision: 6 }).replace(/\s+/g, " ")}`;
}

/** Nested objects and arrays with leaves of the given kind and some structure that is no leaf. */
export function trees<L>(leaf: fc.Arbitrary<L>): fc.Arbitrary<unknown> {
  return fc.letrec<{ tree: unknown; branch: unknown }>((tie) => ({
    tree: fc.oneof({ depthSize: "small" }, leaf, fc.constantFrom(null, undefined, 3, "text"), tie("branch")),
    branch: fc.oneof(fc.array(tie("tree"), { maxLength: 3 }), fc.dictionary(fc.constantFrom("weight", "bias", "layers", "0"), tie("tree"), { maxKeys: 3 })),
  })).branch;
}
