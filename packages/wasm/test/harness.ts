/** Runs one hand-built kernel on a backend and on the interpreter, and compares every buffer. */
import { type Backend, bytesOf, type DeviceBuffer, type DType, decode, encode, hostArray, type Kernel, type PlanSpec, type TypedArray } from "@adjoint/tensor";
import { expect } from "vitest";
import { type Data, interpret } from "./interpret.ts";

export interface Case { readonly kernel: Kernel; readonly buffers: readonly Data[]; readonly uniforms: readonly number[]; readonly types: readonly ("float" | "i32" | "u32")[] }

export function toHost(d: Data): TypedArray {
  const out = hostArray(d.dtype, d.values.length);
  d.values.forEach((x, i) => { out[i] = encode(d.dtype, x); });
  return out;
}
export const fromHost = (dtype: DType, a: TypedArray): number[] => Array.from(a, (x) => decode(dtype, x));

/** All buffers are stores, so that contents before and after are seen. */
export function planOf(c: Case): PlanSpec {
  return {
    kernels: [c.kernel], uniforms: c.types, arenaBytes: 0, inputs: 0, outputs: 0,
    buffers: c.buffers.map((b, position) => ({ kind: "store", dtype: b.dtype, length: b.values.length, offset: 0, position })),
  };
}
/** Contents of all buffers after the kernel. */
export function runOn(backend: Backend, c: Case): TypedArray[] {
  const stores = c.buffers.map((b): DeviceBuffer => { const s = backend.alloc(b.dtype, b.values.length); backend.write(s, toHost(b)); return s; });
  const ready = backend.prepare(planOf(c));
  backend.run(ready, { stores, inputs: [], uniforms: c.uniforms });
  const out = stores.map((s) => { if (backend.readSync === undefined) throw new Error("no readSync"); return backend.readSync(s); });
  backend.release(ready);
  for (const s of stores) backend.free(s);
  return out;
}
export function expected(c: Case): Data[] {
  const buffers = c.buffers.map((b) => ({ dtype: b.dtype, values: fromHost(b.dtype, toHost(b)) }));
  interpret({ buffers, uniforms: c.uniforms.map((u, i) => (c.types[i] === "float" ? Math.fround(u) : u)) }, c.kernel);
  return buffers;
}
const ulp: Record<DType, number> = { f64: 2 ** -52, f32: 2 ** -23, f16: 2 ** -10, bf16: 2 ** -7, i32: 0, u32: 0, u8: 0, i8: 0, bool: 0 };

/** |got - want| <= n ulp·max(|want|, scale), element by element; n = 0 wants equal bits. */
export function close(got: TypedArray, want: Data, n: number, scale: number): void {
  const y = fromHost(want.dtype, got);
  for (let i = 0; i < y.length; i++) {
    const w = want.values[i];
    if (Object.is(y[i], w) || y[i] === w || (Number.isNaN(w) && Number.isNaN(y[i]))) continue;
    const bound = (n * 2 ** -23 + (bytesOf(want.dtype) < 4 ? ulp[want.dtype] : 0)) * Math.max(Math.abs(w), scale);
    const integer = ulp[want.dtype] === 0 || n === 0;
    if (integer || !(Math.abs(y[i] - w) <= bound)) expect.fail(`element ${i} of ${y.length} (${want.dtype}): got ${y[i]}, want ${w}, off by ${(Math.abs(y[i] - w) / (2 ** -23 * Math.max(Math.abs(w), scale))).toFixed(1)} ulp, allowed ${n}`);
  }
}
export function check(backend: Backend, c: Case, n = 16, scale = 1): void {
  const want = expected(c), got = runOn(backend, c);
  want.forEach((w, i) => close(got[i], w, n, scale));
}
/** The same bits on both backends. */
export function same(a: Backend, b: Backend, c: Case): void {
  const x = runOn(a, c), y = runOn(b, c);
  x.forEach((l, i) => expect(Buffer.compare(bytes(l), bytes(y[i])), `buffer ${i} differs`).toBe(0));
}
const bytes = (a: TypedArray): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
