/**
 * Laws of quantized operands: whatever a backend does with codes, its numbers are those of the decoded matrix, bit for bit.
 *
 * Both sides of each law run on the same backend, so nothing is assumed about how it adds.
 */
import fc from "fast-check";
import { type Backend, type DequantizeOptions, type Tensor, AdjointError, accesses, cast, dequantize, fromHost, sizeOf } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import type { Law } from "./conform.ts";
import { evaluate, record } from "./evaluate.ts";

/** A tensor in codes, and its numbers by the formula. */
export interface Coded { readonly shape: readonly number[]; readonly text: string; readonly codes: () => Tensor; readonly values: Float32Array }

const generator = (seed: number): ((n: number) => number) => { let s = seed >>> 0; return (n) => { s = (Math.imul(s ^ (s >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0; return ((s ^ (s >>> 13)) >>> 0) % n; }; };
const floats = (values: Float32Array, shape: readonly number[] = [values.length]): Tensor => fromHost({ dtype: "f32", shape, data: values });
const bytes = (values: Uint8Array): Tensor => fromHost({ dtype: "u8", shape: [values.length], data: values });

/** One number a block: plain, or quantized again; with the host's values of them. */
function numbers(pick: (n: number) => number, blocks: number, nested: number): { tensors: DequantizeOptions["scales"]; values: Float32Array } {
  const real = (n: number): Float32Array => Float32Array.from({ length: n }, () => (pick(4001) - 2000) / 1777);
  if (nested === 0) { const values = real(blocks); return { tensors: { values: floats(values) }, values }; }
  const outer = real(Math.ceil(blocks / nested)), table = real(256), offset = real(1), codes = Uint8Array.from({ length: blocks }, () => pick(256));
  const values = Float32Array.from({ length: blocks }, (_, b) => Math.fround(table[codes[b]] * outer[Math.floor(b / nested)]) + offset[0]);
  return { tensors: { values: floats(outer), nested: { codes: bytes(codes), table: floats(table), block: nested, offset: floats(offset) } }, values };
}

/** Codes of any bits, block, scales and minima for a shape. */
export function coded(shape: readonly number[], { seed, bits, block, nested, mins }: { seed: number; bits: 4 | 8; block: number; nested: number; mins: number | null }): Coded {
  const pick = generator(seed), n = sizeOf(shape), blocks = Math.ceil(n / block), table = Float32Array.from({ length: 2 ** bits }, () => (pick(4001) - 2000) / 1999);
  const codes = Uint8Array.from({ length: Math.ceil((n * bits) / 8) }, () => pick(256)), scales = numbers(pick, blocks, nested), least = mins === null ? null : numbers(pick, blocks, mins);
  const values = Float32Array.from({ length: n }, (_, e) => {
    const code = bits === 8 ? codes[e] : e % 2 === 0 ? codes[e >> 1] >> 4 : codes[e >> 1] & 15, b = Math.floor(e / block);
    return Math.fround(table[code] * scales.values[b]) - (least ? least.values[b] : 0);
  });
  return {
    shape, values, text: JSON.stringify({ shape, bits, block, nested, mins }),
    codes: () => dequantize(bytes(codes), { shape, bits, block, table: floats(table), scales: scales.tensors, ...(least ? { mins: least.tensors } : {}) }),
  };
}
const kinds = fc.record({ seed: fc.nat(2 ** 31), bits: fc.constantFrom(4 as const, 8 as const), block: fc.constantFrom(1, 3, 16, 32, 64, 100), nested: fc.constantFrom(0, 0, 1, 7, 256), mins: fc.constantFrom(null, null, 0, 4) });

/** Formulas over W [n, k] and data of any size; each is given a source of further tensors. */
type Use = (w: Tensor, x: (...shape: number[]) => Tensor, m: number) => Tensor;
const uses: Readonly<Record<string, Use>> = {
  "x Wᵀ": (w, x, m) => x(m, w.shape[1]).matmul(w.T),
  "g W": (w, x, m) => x(m, w.shape[0]).matmul(w),
  "W x": (w, x, m) => w.matmul(x(w.shape[1], m)),
  "Wᵀ g": (w, x, m) => w.T.matmul(x(w.shape[0], m)),
  "tanh(x Wᵀ + b)": (w, x, m) => x(m, w.shape[1]).matmul(w.T).add(x(w.shape[0])).tanh(),
  "x Wᵀ + (x Aᵀ) Bᵀ": (w, x, m) => { const y = x(m, w.shape[1]), [n, k] = w.shape; return y.matmul(w.T).add(y.matmul(x(2, k).T).matmul(x(n, 2).T)); },
  "rows of W": (w, x, m) => { const r = Math.floor(w.shape[0] / 3); return x(m, w.shape[1]).matmul(w.slice(0, r, w.shape[0] - r).T); },
  "columns of W": (w, x, m) => { const c = Math.floor(w.shape[1] / 3), part = w.slice(1, c, w.shape[1]); return x(m, part.shape[1]).matmul(part.T); },
  "W Wᵀ": (w) => w.matmul(w.T),
  "x Wᵀ of half precision": (w, x, m) => cast(x(m, w.shape[1]), "f16").matmul(w.T),
  "a batch that shares W": (w, x, m) => x(2, m, w.shape[1]).matmul(w.T),
  "a batch of W": (w, x, m) => { const [n, k] = w.shape, b = n % 2 === 0 ? 2 : 1; return x(b, m, k).matmul(w.reshape([b, n / b, k]).permute([0, 2, 1])); },
  "W of another shape": (w, x, m) => x(m, w.size).matmul(w.reshape([w.size, 1])),
  "neither axis contiguous": (w, x, m) => { const [n, k] = w.shape, c = k % 2 === 0 ? 2 : 1; return x(c, m, n).matmul(w.reshape([n, k / c, c]).permute([2, 0, 1])); },
  "W as numbers too": (w, x, m) => x(m, w.shape[1]).matmul(w.T).sum().add(w.mul(2).sum()),
};
const sizes = [1, 2, 3, 5, 16, 17, 33, 64, 70], rows = [1, 2, 3, 4, 5, 6, 7, 8, 9, 64, 70], deep = [...sizes, 256, 300];

function source(seed: number): (...shape: number[]) => Tensor {
  const pick = generator(seed);
  return (...shape) => floats(Float32Array.from({ length: sizeOf(shape) }, () => (pick(129) - 64) / 16), shape);
}
function equal(got: readonly number[], want: readonly number[], text: string): void {
  for (let i = 0; i < want.length; i++) if (!Object.is(got[i], want[i]) && !(Number.isNaN(got[i]) && Number.isNaN(want[i]))) throw new AdjointError(`element ${i} of ${want.length}: ${got[i]} from codes, ${want[i]} from numbers\n${text}`);
}

/** f(codes) and f(numbers), equal bit for bit. */
async function agree(backend: Backend, c: Coded, f: (w: Tensor) => Tensor): Promise<void> {
  const [got] = await evaluate([f(c.codes())], backend), [want] = await evaluate([f(floats(c.values, c.shape))], backend);
  equal(got, want, c.text);
}

/** Laws of codes on a backend; `runs` draws each, the smallest counterexample where they `shrink`. */
export function codeLaws(backend: Backend, { runs = 20, seed = 1, shrink = true }: { readonly runs?: number; readonly seed?: number; readonly shrink?: boolean } = {}): Law[] {
  const law = (name: string, check: () => Promise<void>): Law => ({ kind: "codes", subject: "dequantize", name, check });
  const drawn = fc.record({ n: fc.constantFrom(...sizes), k: fc.constantFrom(...deep), m: fc.constantFrom(...rows), kind: kinds });
  const each = async (check: (c: Coded, m: number, x: (...shape: number[]) => Tensor) => Promise<void>): Promise<void> => {
    await fc.assert(fc.asyncProperty(drawn, ({ n, k, m, kind }) => check(coded([n, k], kind), m, source(kind.seed))), { numRuns: runs, seed, endOnFailure: !shrink });
  };
  return [
    law("a tensor in codes is its formula", () => each(async (c) => { equal((await evaluate([c.codes().mul(1)], backend))[0], [...c.values], c.text); })),
    ...Object.entries(uses).map(([name, use]) => law(`${name} from codes is that of the numbers`, () => each((c, m) => agree(backend, c, (w) => use(w, source(m), m))))),
    law("gradients: dx = g W, nothing for the codes", () => each(async (c, m, x) => {
      const y = x(m, c.shape[1]), g = x(m, c.shape[0]);
      await agree(backend, c, (w) => gradients(y.matmul(w.T).mul(g).sum(), [y])[0]!);
      const w = c.codes();
      if (gradients(y.matmul(w.T).sum(), [y, ...w.inputs]).slice(1).some((d) => d !== null)) throw new AdjointError("a gradient reaches the codes");
    })),
    law("a product with codes has no full-precision copy of them", () => each(async (c, m, x) => {
      if (!backend.decodes || !backend.composites.has("dequantize") || m * c.shape[0] >= c.values.length || m * c.shape[1] >= c.values.length) return;
      const y = x(m, c.shape[1]), g = x(m, c.shape[0]), w = c.codes(), { plan } = record([y.matmul(w.T), g.matmul(w)], backend);
      const read = new Set(plan.kernels.flatMap((k) => accesses(k).reads.map((v) => v.buffer)));
      for (const b of read) if (plan.buffers[b].kind === "slot" && plan.buffers[b].length >= c.values.length) throw new AdjointError(`a slot of ${plan.buffers[b].length} numbers for ${c.text}`);
      if (plan.kernels.some((k) => k.kind !== "contract" || !k.b.decode)) throw new AdjointError(`not only products that decode: ${plan.kernels.map((k) => k.label).join("; ")} for ${c.text}`);
      await Promise.resolve();
    })),
  ];
}
