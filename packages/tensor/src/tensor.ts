/** A tensor: a shape, a dtype, and either numbers or the recipe for them. */
import type { Backend, DeviceBuffer } from "./backend.ts";
import { type DType, type HostArray, type TypedArray, bytesOf, dtypeOfArray, encode, hostArray, widenHalves } from "./dtype.ts";
import { ConfigError, DTypeError, ShapeError } from "./errors.ts";
import type { Expr, ExprType } from "./expr.ts";
import { type Shape, checkShape, rowMajor, show, sizeOf } from "./shape.ts";
import type { Methods } from "./methods.ts";

/** Integer index of the point being computed, for formulas that depend on position: Σ index[axis]·strides[axis]. */
export type IndexOf = (strides: readonly number[], type: "i32" | "u32") => Expr;

/** An interval from which property tests draw the values of one input. */
export interface Domain { readonly low: number; readonly high: number; readonly integer?: boolean; readonly dtype?: DType; readonly avoid?: readonly number[] }

export type OpKind = "leaf" | "read" | "scalar" | "map" | "view" | "reduce" | "contract" | "concat" | "gather" | "scatterAdd" | "update" | "composite";

/** What an op is, once: meaning, gradient, test domain, doc. Its identity is the object; there is no registry. */
export interface Op {
  readonly name: string;
  readonly kind: OpKind;
  /** pointwise ops: the scalar formula */
  readonly forward?: (args: readonly Expr[], node: NodeLike, index: IndexOf) => Expr;
  /** composites: the meaning in terms of other ops */
  readonly define?: (inputs: readonly Tensor[], attrs: unknown) => Tensor;
  /** gradient to each input given the gradient g of the result y; null where there is none. Ordinary tensor code. */
  readonly vjp?: (g: Tensor, y: Tensor) => readonly (Tensor | null)[];
  /** gradients to inputs may skip an input that nobody asked for */
  readonly domain?: readonly Domain[];
  /** pairs of expressions that must be equal, for property tests */
  readonly laws?: Readonly<Record<string, (...xs: Tensor[]) => readonly [Tensor, Tensor]>>;
  readonly doc?: string;
}

/** The part of a node that formulas and schedulers read. */
export interface NodeLike { readonly op: Op; readonly attrs: unknown; readonly shape: Shape; readonly dtype: DType }

/** Plain data that becomes part of a plan's key; numbers that change per step never live here. */
export type Attrs = Readonly<Record<string, number | string | boolean | readonly number[] | null | undefined>>;

let made = 0;
/** How many tensors there have been: the time of a recording, comparable with `id`. */
export const recordingTime = (): number => made;
/** Hooks that the engine installs (recording state lives there). */
export interface Hooks {
  recorded(t: Tensor): void;
  materialise(ts: readonly Tensor[]): Promise<void>;
  materialiseSync(ts: readonly Tensor[]): void;
}
export const hooks: Hooks = {
  recorded: () => undefined,
  materialise: () => Promise.reject(new ConfigError("the engine is not loaded", { fix: 'import from "@adjoint/tensor"' })),
  materialiseSync: () => { throw new ConfigError("the engine is not loaded", { fix: 'import from "@adjoint/tensor"' }); },
};

/** An answer on a device that cannot be read at once. */
export interface Resident {
  readonly device: Backend;
  readonly buffer: DeviceBuffer;
  /** brings the numbers to the host and gives the buffer back */
  arrive(): Promise<void>;
}

// eslint-disable-next-line @typescript-eslint/no-unsafe-declaration-merging -- methods.ts installs exactly these
export interface Tensor extends Methods {}

/**
 * A value that never changes: shape and dtype at once, numbers when asked for.
 * @example const y = tensor([1, 2, 3]).mul(2).sum(); await y.item(); // 12
 */
// eslint-disable-next-line @typescript-eslint/no-unsafe-declaration-merging
export class Tensor implements NodeLike {
  readonly id: number = made++;
  readonly op: Op;
  /** the recipe; emptied once the numbers are here */
  inputs: readonly Tensor[];
  readonly attrs: unknown;
  readonly shape: Shape;
  readonly dtype: DType;
  /** the numbers, once real (a scalar's value, a leaf's data, a computed answer) */
  value: HostArray | null = null;
  /** where the numbers are while they have not come to the host (asynchronous devices) */
  resident: Resident | null = null;
  /** whether a flush has let the recipe go */
  computed = false;
  /** once a flush has stored this value, a read of that store stands for it */
  alias: Tensor | null = null;
  name = "";
  constructor(op: Op, inputs: readonly Tensor[], attrs: unknown, shape: Shape, dtype: DType) {
    this.op = op; this.inputs = inputs; this.attrs = attrs; this.shape = shape; this.dtype = dtype;
  }
  get rank(): number { return this.shape.length; }
  get size(): number { return sizeOf(this.shape); }
  get bytes(): number { return this.size * bytesOf(this.dtype); }

  /** Numbers in row-major order: f16 and bf16 widened to Float32Array, others in their own typed array. Computes what is needed. */
  async data(): Promise<Numbers> {
    if (!this.value) await hooks.materialise([this]);
    return widened(this.value!);
  }
  /** Like `data()`, at once; throws on devices that can only be read asynchronously. */
  dataSync(): Numbers {
    if (!this.value) hooks.materialiseSync([this]);
    return widened(this.value!);
  }
  /** The stored elements as they are (raw bits for f16 and bf16). */
  async host(): Promise<HostArray> {
    if (!this.value) await hooks.materialise([this]);
    return this.value!;
  }
  /** The only number of a one-element tensor. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError(`item: a tensor of shape ${show(this.shape)} has ${this.size} numbers, not one`, { op: "item", shapes: [this.shape], fix: "use data(), or reduce it first" });
    return (await this.data())[0];
  }
  /** Nested arrays of numbers (booleans for bool). */
  async array(): Promise<NestedNumbers> {
    return nest([...(await this.data())], this.shape);
  }
  /** Gives the tensor a name that errors and explain print. */
  named(name: string): this { this.name = name; return this; }

  /** In a text (`${t}`) what console.log prints; anywhere else an error. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    throw new DTypeError("a tensor is not a number: operators such as + and < do not record", { fix: "write a.add(b), a.lt(b), or await t.item()" });
  }
  toJSON(): never {
    throw new DTypeError("a tensor is not JSON", { fix: "write await t.array()" });
  }
}

export type NestedNumbers = number | NestedNumbers[];
function nest(flat: number[], shape: Shape): NestedNumbers {
  if (shape.length === 0) return flat[0];
  const [n, ...rest] = shape, step = sizeOf(rest);
  return Array.from({ length: n }, (_, i) => nest(flat.slice(i * step, (i + 1) * step), rest));
}
/** What data() returns: every dtype as itself, half precision as Float32Array. */
export type Numbers = Exclude<TypedArray, Uint16Array>;
export function widened(h: HostArray): Numbers {
  return h.data instanceof Uint16Array ? widenHalves(h.data, h.dtype === "f16" ? "f16" : "bf16") : h.data;
}

/** Whether t's numbers exist, here or on a device: then it is a leaf for every recording. */
export const hasNumbers = (t: Tensor): boolean => t.value !== null || t.resident !== null;

export const leafOp: Op = { name: "leaf", kind: "leaf" };
export const scalarOp: Op = { name: "scalar", kind: "scalar" };

/** Records one node; a Store among the inputs stands for its current value. */
export function record(op: Op, inputs: readonly Tensor[], attrs: unknown, shape: Shape, dtype: DType): Tensor {
  const t = new Tensor(op, inputs.map(current), attrs, checkShape(op.name, shape), dtype);
  hooks.recorded(t);
  return t;
}
/** A store's current value, any other tensor itself. */
export const current = (t: Tensor): Tensor => {
  let x = "current" in t ? (t as Tensor & { current: Tensor }).current : t;
  while (x.alias) x = x.alias;
  return x;
};
/** An identity that makes its own numbers: what a flush computes when a view, a number or a store is asked for. */
export const copyOp: Op = { name: "copy", kind: "map", forward: ([x]) => x, vjp: (g) => [g] };

/** A tensor over numbers that the host already has; the array is not copied. */
export function fromHost(h: HostArray): Tensor {
  checkShape("tensor", h.shape);
  if (h.data.length !== sizeOf(h.shape)) throw new ShapeError(`tensor: ${h.data.length} values cannot fill shape ${show(h.shape)}`, { op: "tensor", shapes: [h.shape], value: h.data.length });
  const t = new Tensor(leafOp, [], null, h.shape, h.dtype);
  t.value = h;
  return t;
}

export type NestedInput = number | boolean | readonly NestedInput[];

/**
 * Makes a tensor from numbers, nested arrays or a typed array. Plain numbers give f32, booleans bool, typed arrays keep their type.
 * @example tensor([[1, 2], [3, 4]]); tensor(new Int32Array([1, 2])); tensor([1, 2, 3, 4], { shape: [2, 2], dtype: "f64" })
 */
export function tensor(data: NestedInput | TypedArray, options: { shape?: Shape; dtype?: DType } = {}): Tensor {
  if (ArrayBuffer.isView(data)) {
    const dtype = data instanceof Uint16Array && options.dtype ? options.dtype : dtypeOfArray(data);
    const h = { dtype, shape: options.shape ?? [data.length], data };
    return options.dtype && options.dtype !== dtype ? fromHost(convert(h, options.dtype)) : fromHost(h);
  }
  const shape: number[] = [];
  for (let x: NestedInput = data; Array.isArray(x); x = x[0] as NestedInput) shape.push(x.length);
  const flat: (number | boolean)[] = [];
  const fill = (x: unknown, depth: number): void => {
    if (typeof x === "number" || typeof x === "boolean") {
      if (depth !== shape.length) throw new ShapeError(`tensor: nested arrays are ragged: a number at depth ${depth}, expected depth ${shape.length}`, { op: "tensor" });
      flat.push(x);
      return;
    }
    if (!Array.isArray(x)) throw new DTypeError(`tensor: ${x === null ? "null" : `a value of type ${typeof x}`} is no number`, { op: "tensor", value: x, fix: "give numbers, booleans, nested arrays of them, or a typed array" });
    if (depth >= shape.length || x.length !== shape[depth]) throw new ShapeError(`tensor: nested arrays are ragged: length ${x.length} at depth ${depth}, expected ${shape[depth]}`, { op: "tensor" });
    for (const y of x) fill(y, depth + 1);
  };
  fill(data, 0);
  const dtype = options.dtype ?? (typeof flat[0] === "boolean" ? "bool" : "f32");
  const out = hostArray(dtype, flat.length);
  flat.forEach((v, i) => { out[i] = encode(dtype, Number(v)); });
  return fromHost({ dtype, shape: options.shape ?? shape, data: out });
}
function convert(h: HostArray, dtype: DType): HostArray {
  const out = hostArray(dtype, h.data.length), from = widened(h);
  for (let i = 0; i < out.length; i++) out[i] = encode(dtype, from[i]);
  return { dtype, shape: h.shape, data: out };
}

/** A number as data: a uniform of the plan, never part of its key. */
export function scalar(value: number, dtype: DType = "f32"): Tensor {
  const t = new Tensor(scalarOp, [], null, [], dtype);
  const data = hostArray(dtype, 1);
  data[0] = encode(dtype, value);
  t.value = { dtype, shape: [], data };
  return t;
}
/** A tensor filled with one number (an expanded uniform). */
export const full = (shape: Shape, value: number, dtype: DType = "f32"): Tensor => scalar(value, dtype).expand(shape);
export const zeros = (shape: Shape, dtype: DType = "f32"): Tensor => full(shape, 0, dtype);
export const ones = (shape: Shape, dtype: DType = "f32"): Tensor => full(shape, 1, dtype);

/** Formula type of a dtype. */
export function exprType(dtype: DType): ExprType {
  switch (dtype) {
    case "f64": case "f32": case "f16": case "bf16": return "float";
    case "i32": case "i8": case "u8": return "i32";
    case "u32": return "u32";
    case "bool": return "bool";
    default: return dtype satisfies never;
  }
}
export { rowMajor };
