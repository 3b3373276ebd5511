/** A contract kernel in the form that the product kernels share: which operand runs which way, and how wide it may be read. */
import { bytesOf, type ContractKernel, DTypeError, type Factor } from "@adjoint/tensor";
import { codeWidth, decodeBuffers } from "./codes.ts";

/** The axis along which an operand is contiguous: k, its own axis (m of a, n of b), or none. */
export type Order = "along" | "across" | "any";

/** One operand over [batch..., m or n] and k; strides in elements. Codes count as the f32 that they mean. */
export interface Operand {
  readonly view: Factor;
  readonly across: number;
  readonly along: number;
  readonly batch: readonly number[];
  readonly order: Order;
  /** how many elements one load may take along its order: 8 (16 bits, or codes of 4), 4 or 1 */
  readonly width: 1 | 4 | 8;
}
export interface Factors { readonly k: number; readonly a: Operand; readonly b: Operand }

/** Σ over products of a·b for [batch..., m, n]; `turned`: m and n of the kernel are exchanged here, and a and b with them. */
export interface Problem {
  readonly m: number; readonly n: number;
  readonly batch: readonly number[];
  readonly products: readonly Factors[];
  readonly turned: boolean;
  /** strides over the kernel's shape as strides over [batch..., m, n] of this problem */
  readonly strides: (over: readonly number[]) => number[];
}

/** Buffers that the operands are read from. */
export const operandBuffers = (p: Problem): ReadonlySet<number> => new Set(p.products.flatMap(({ a, b }) => [a.view, b.view].flatMap((v) => [v.buffer, ...(v.decode === undefined ? [] : decodeBuffers(v.decode))])));

export const product = (xs: readonly number[]): number => xs.reduce((a, b) => a * b, 1);

/** How far all starts, steps and the extent along the contiguous axis divide: loads of that many elements stay inside and aligned. */
function widthOf(view: Factor, extent: number, steps: readonly number[]): 1 | 4 | 8 {
  const all = [extent, view.offset, view.at?.stride ?? 0, ...steps], most = bytesOf(view.dtype) === 2 ? 8 : 4;
  if (view.decode !== undefined) return codeWidth(view.decode, (w) => all.every((x) => x % w === 0));
  for (const w of [8, 4] as const) if (w <= most && all.every((x) => x % w === 0)) return w;
  return 1;
}

function operand(view: Factor, batch: readonly number[], across: number, along: number, extent: number, k: number): Operand {
  const order: Order = along === 1 ? "along" : across === 1 ? "across" : "any";
  const width = order === "along" ? widthOf(view, k, [...batch, across]) : order === "across" ? widthOf(view, extent, [...batch, along]) : 1;
  return { view, batch, across, along, order, width };
}

/** @throws DTypeError for operands that are not f32, f16 or bf16 */
export function problemOf(kernel: ContractKernel): Problem {
  const rank = kernel.shape.length, nb = rank - 2, m = kernel.shape[nb], n = kernel.shape[nb + 1];
  const kept = kernel.shape.slice(0, nb).map((_, i) => i).filter((i) => kernel.shape[i] !== 1);
  const out = kernel.stores[0].view.strides;
  // columns of the result contiguous, or fewer than five of them: the transposed product is the better one
  const turned = m <= 4 ? false : n <= 4 ? true : out[nb + 1] !== 1 && out[nb] === 1;
  const side = (view: Factor, extent: number, across: number, along: number, k: number): Operand => operand(view.decode === undefined ? view : { ...view, dtype: "f32" }, kept.map((i) => view.strides[i]), extent === 1 ? 0 : across, k === 1 ? (across === 1 ? 0 : 1) : along, extent, k);
  const products = [{ k: kernel.k, a: kernel.a, b: kernel.b }, ...(kernel.more ?? [])].map(({ k, a, b }): Factors => {
    for (const w of [a, b]) if (w.decode === undefined && w.dtype !== "f32" && w.dtype !== "f16" && w.dtype !== "bf16") {
      throw new DTypeError(`contract ${kernel.label}: operands must be f32, f16 or bf16`, { op: kernel.label, value: w.dtype, fix: "cast the operand to f32" });
    }
    const left = side(a, m, a.strides[nb], a.strides[nb + 1], k), right = side(b, n, b.strides[nb + 1], b.strides[nb], k);
    return turned ? { k, a: right, b: left } : { k, a: left, b: right };
  });
  return {
    m: turned ? n : m, n: turned ? m : n, batch: kept.map((i) => kernel.shape[i]), products, turned,
    strides: (s) => [...kept.map((i) => s[i]), ...(turned ? [s[nb + 1], s[nb]] : [s[nb], s[nb + 1]])],
  };
}
