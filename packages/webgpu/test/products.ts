/** Problems for the product kernels, and what they must give. */
import { type ContractKernel, type DType, decode, encode, type Expr, leaf, type PlanSpec, type View } from "@adjoint/tensor";
import { evaluate } from "../../wasm/test/interpret.ts";
import { type Bench, type Buffer4, execute } from "./execute.ts";
import type { Program } from "../src/program.ts";

export interface Case { readonly kernel: ContractKernel; readonly buffers: readonly Buffer4[]; readonly uniforms: readonly number[] }
export const planOf = (c: Case): PlanSpec => ({
  kernels: [c.kernel], uniforms: ["float", "i32"], arenaBytes: 0, inputs: 0, outputs: 0,
  buffers: c.buffers.map((b, position) => ({ kind: "store", dtype: b.dtype, length: b.values.length, offset: 0, position })),
});

/** Every buffer after the kernel, in f64 with rounding at stores. */
export function expected(c: Case): number[][] {
  const { kernel: k } = c, memory = c.buffers.map((b) => b.values.map((x) => decode(b.dtype, encode(b.dtype, x)))), before = memory.map((m) => [...m]);
  const start = (v: View): number => v.offset + (v.at === undefined ? 0 : c.uniforms[k.uniforms[v.at.uniform]] * v.at.stride);
  const shape = k.shape, nb = shape.length - 2, index = shape.map(() => 0), total = shape.reduce((a, b) => a * b, 1);
  const at = (v: { offset: number; strides: readonly number[] }): number => v.strides.reduce((t, s, i) => t + s * index[i], v.offset);
  for (let p = 0; p < total; p++) {
    let rest = p;
    for (let i = shape.length - 1; i >= 0; i--) { index[i] = rest % shape[i]; rest = Math.floor(rest / shape[i]); }
    let acc = 0;
    for (const { k: K, a, b } of [{ k: k.k, a: k.a, b: k.b }, ...(k.more ?? [])]) {
      let pa = start(a), pb = start(b);
      for (let i = 0; i < nb; i++) { pa += index[i] * a.strides[i]; pb += index[i] * b.strides[i]; }
      pa += index[nb] * a.strides[nb]; pb += index[nb + 1] * b.strides[nb + 1];
      for (let x = 0; x < K; x++) acc += before[a.buffer][pa + x * a.strides[nb + 1]] * before[b.buffer][pb + x * b.strides[nb]];
    }
    const leaves = { load: (i: number) => before[k.loads[i].buffer][at({ ...k.loads[i], offset: start(k.loads[i]) })], uniform: (i: number) => c.uniforms[k.uniforms[i]], affine: (i: number) => at(k.affines[i]), stat: () => 0, acc: () => acc };
    const values = k.stores.map((s) => evaluate(s.value, leaves));
    k.stores.forEach((s, i) => { memory[s.view.buffer][at({ ...s.view, offset: start(s.view) })] = decode(s.view.dtype, encode(s.view.dtype, values[i])); });
  }
  return memory;
}
const unit: Partial<Record<DType, number>> = { f16: 2 ** -10, bf16: 2 ** -7 };

/** Runs and compares; the answer says where they differ, or is empty. */
export async function differences(b: Bench, c: Case, program: Program, tolerance = 2e-6): Promise<string> {
  const want = expected(c), got = await execute(b, planOf(c), program, c.buffers, c.uniforms);
  for (let i = 0; i < want.length; i++) for (let j = 0; j < want[i].length; j++) {
    const w = want[i][j], g = got[i][j];
    if (!(Math.abs(g - w) <= (tolerance + (unit[c.buffers[i].dtype] ?? 0)) * Math.max(Math.abs(w), 16))) return `buffer ${i} element ${j}: got ${g}, want ${w}`;
  }
  return "";
}

/** What a matrix may be besides its layout. */
interface Variety { readonly pad?: number; readonly offset?: number; readonly repeat?: boolean; /** a start that is data, in steps of so many elements */ readonly at?: number }
type Layout = "row" | "column" | "any";
/** A source of choices from a seed. */
export class Draw {
  readonly buffers: Buffer4[] = [];
  readonly #next: (n: number) => number;
  constructor(seed: number) { let s = seed >>> 0; this.#next = (n) => { s = (Math.imul(s ^ (s >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0; return ((s ^ (s >>> 13)) >>> 0) % n; }; }
  int(n: number): number { return this.#next(n); }
  of<T>(xs: readonly T[]): T { return xs[this.#next(xs.length)]; }
  /** multiples of 1/8 in [-2, 2]: products and short sums are exact in f32, and each fits in any half */
  number(): number { return (this.#next(33) - 16) / 8; }
  buffer(dtype: DType, length: number): number { return this.buffers.push({ dtype, values: Array.from({ length }, () => this.number()) }) - 1; }
  /** a matrix over [batch..., r, c], the axis `fast` contiguous (or none), rows padded by `pad`; batch axes may repeat */
  view(batch: readonly number[], r: number, c: number, dtype: DType, layout: Layout, { pad = 0, offset = 0, repeat = true, at = 0 }: Variety = {}): View {
    const [sr, sc] = layout === "row" ? [c + pad, 1] : layout === "column" ? [1, r + pad] : [(c + 1) * 2, 2];
    const strides = batch.map(() => 0);
    let step = layout === "row" ? (c + pad) * r : layout === "column" ? (r + pad) * c : (c + 1) * 2 * r;
    for (let i = batch.length - 1; i >= 0; i--) { if (repeat && this.int(3) === 0) continue; strides[i] = step; step *= batch[i]; }
    const buffer = this.buffer(dtype, offset + step + at * 4);
    return { buffer, dtype, offset, strides: [...strides, sr, sc], ...(at > 0 ? { at: { uniform: 1, stride: at } } : {}) };
  }
}
export const uniforms: readonly number[] = [0.375, 3];
export const acc: Expr = leaf("acc", 0, "float");
/** The plain product of f32 matrices. */
export function plain(d: Draw, batch: readonly number[], m: number, n: number, k: number, { a = "row", b = "row", types = ["f32", "f32"] }: { a?: Layout; b?: Layout; types?: readonly [DType, DType] } = {}): Case {
  const kernel: ContractKernel = { kind: "contract", label: "product", shape: [...batch, m, n], k, a: d.view(batch, m, k, types[0], a), b: d.view(batch, k, n, types[1], b), loads: [], affines: [], uniforms: [0, 1], stores: [{ view: d.view(batch, m, n, "f32", "row", { repeat: false }), value: acc }] };
  return { kernel, buffers: d.buffers, uniforms };
}
