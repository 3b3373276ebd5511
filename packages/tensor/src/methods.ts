/** Installs the primitives and shape ops as methods of Tensor; the only file with a side effect. */
import type { DType } from "./dtype.ts";
import type { Operand } from "./op.ts";
import type { Shape } from "./shape.ts";
import { Tensor, full } from "./tensor.ts";
import * as p from "./ops/pointwise.ts";
import * as v from "./ops/views.ts";
import * as r from "./ops/reduce.ts";
import { matmul } from "./ops/matmul.ts";
import { printArray } from "./print.ts";

/** What can be written after a dot. Composites are functions only, so that bundlers drop the unused. */
export interface Methods {
  add(b: Operand): Tensor; sub(b: Operand): Tensor; mul(b: Operand): Tensor; div(b: Operand): Tensor; pow(b: Operand): Tensor;
  maximum(b: Operand): Tensor; minimum(b: Operand): Tensor;
  lt(b: Operand): Tensor; le(b: Operand): Tensor; gt(b: Operand): Tensor; ge(b: Operand): Tensor; eq(b: Operand): Tensor; ne(b: Operand): Tensor;
  neg(): Tensor; abs(): Tensor; exp(): Tensor; log(): Tensor; sqrt(): Tensor; rsqrt(): Tensor; tanh(): Tensor; sin(): Tensor; cos(): Tensor; erf(): Tensor;
  floor(): Tensor; square(): Tensor; not(): Tensor;
  /** this (bool) ? a : b */
  where(a: Operand, b: Operand): Tensor;
  cast(dtype: DType): Tensor;
  sum(axes?: r.Axes): Tensor; mean(axes?: r.Axes): Tensor; amax(axes?: r.Axes): Tensor; amin(axes?: r.Axes): Tensor;
  matmul(b: Tensor): Tensor;
  reshape(shape: Shape): Tensor; permute(axes: readonly number[]): Tensor; transpose(a?: number, b?: number): Tensor; expand(shape: Shape): Tensor;
  slice(axis: number, start: number, end?: number): Tensor; unsqueeze(axis: number): Tensor; squeeze(axis: number): Tensor;
  /** the matrix transpose of the last two axes */
  readonly T: Tensor;
  /** a tensor of this dtype filled with one number, in this shape unless another is given */
  like(value: number, shape?: Shape): Tensor;
  /** what console.log prints: the numbers where there are any, else the last step of the recipe */
  toString(): string;
}

const methods: { [K in Exclude<keyof Methods, "T" | "toString">]: (this: Tensor, ...args: Parameters<Methods[K]>) => Tensor } = {
  add(b) { return p.add(this, b); }, sub(b) { return p.sub(this, b); }, mul(b) { return p.mul(this, b); }, div(b) { return p.div(this, b); }, pow(b) { return p.pow(this, b); },
  maximum(b) { return p.maximum(this, b); }, minimum(b) { return p.minimum(this, b); },
  lt(b) { return p.lt(this, b); }, le(b) { return p.le(this, b); }, gt(b) { return p.gt(this, b); }, ge(b) { return p.ge(this, b); }, eq(b) { return p.eq(this, b); }, ne(b) { return p.ne(this, b); },
  neg() { return p.neg(this); }, abs() { return p.abs(this); }, exp() { return p.exp(this); }, log() { return p.log(this); }, sqrt() { return p.sqrt(this); }, rsqrt() { return p.rsqrt(this); },
  tanh() { return p.tanh(this); }, sin() { return p.sin(this); }, cos() { return p.cos(this); }, erf() { return p.erf(this); }, floor() { return p.floor(this); },
  square() { return p.square(this); }, not() { return p.not(this); },
  where(a, b) { return p.where(this, a, b); },
  cast(dtype) { return p.cast(this, dtype); },
  sum(axes) { return r.sum(this, axes); }, mean(axes) { return r.mean(this, axes); }, amax(axes) { return r.amax(this, axes); }, amin(axes) { return r.amin(this, axes); },
  matmul(b) { return matmul(this, b); },
  reshape(shape) { return v.reshape(this, shape); }, permute(axes) { return v.permute(this, axes); }, transpose(a, b) { return v.transpose(this, a, b); }, expand(shape) { return v.expand(this, shape); },
  slice(axis, start, end) { return v.slice(this, axis, start, end); }, unsqueeze(axis) { return v.unsqueeze(this, axis); }, squeeze(axis) { return v.squeeze(this, axis); },
  like(value, shape) { return full(shape ?? this.shape, value, this.dtype); },
};
for (const [name, value] of Object.entries(methods)) Object.defineProperty(Tensor.prototype, name, { value, writable: true, configurable: true });
Object.defineProperty(Tensor.prototype, "T", { get(this: Tensor) { return v.transpose(this); }, configurable: true });
/** A line for what is not computed yet, else the numbers. */
function text(this: Tensor): string {
  const head = `Tensor ${this.dtype} [${this.shape.join(", ")}]${this.name ? ` ${this.name}` : ""}`;
  if (this.resident) return `${head} on ${this.resident.device.name}`;
  return this.value ? `${head}\n${printArray(this.value)}` : `${head} = ${this.op.name}(${this.inputs.map((x) => `${x.op.name} [${x.shape.join(", ")}]`).join(", ")})`;
}
for (const name of ["toString", Symbol.for("nodejs.util.inspect.custom")]) Object.defineProperty(Tensor.prototype, name, { value: text, configurable: true });
