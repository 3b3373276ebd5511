/**
 * What a device is: it allocates buffers, prepares a plan once, and runs it many times.
 *
 * A plan is a list of kernels of few shapes (design section 4) over numbered buffers. Formulas are `Expr` trees whose
 * leaves point into the kernel's own lists, so a kernel's code depends on formula, dtypes and stride classes only;
 * sizes, strides, offsets and numbers are data.
 */
import type { DType, TypedArray } from "./dtype.ts";
import type { Expr } from "./expr.ts";

/**
 * Affine access to a buffer from a kernel's iteration space:
 * element = offset + Σ_axis index[axis]·strides[axis] + (at ? uniform(at.uniform)·at.stride : 0). All in elements.
 * Strides are non-negative; a stride of 0 repeats the element along that axis.
 */
export interface View {
  readonly buffer: number;
  readonly dtype: DType;
  readonly offset: number;
  readonly strides: readonly number[];
  /** a start position that is data: an i32 uniform (position in the kernel's `uniforms`), clamped by whoever binds it */
  readonly at?: { readonly uniform: number; readonly stride: number };
}
/** Integer leaf `affine`: offset + Σ index[axis]·strides[axis], as i32 (or u32 by the leaf's type). */
export interface Affine { readonly offset: number; readonly strides: readonly number[] }
/** One result of a kernel. */
export interface StoreTo { readonly view: View; readonly value: Expr }

interface Common {
  /** sizes of the iteration space, adjacent axes already merged where every view allows it (rank 1 to 6) */
  readonly shape: readonly number[];
  readonly loads: readonly View[];
  readonly affines: readonly Affine[];
  /** leaf `uniform` i is number `uniforms[i]` of the plan */
  readonly uniforms: readonly number[];
  /** names of the graph nodes computed here, for explain */
  readonly label: string;
}

/** For each point of `shape`: every store's value is evaluated and written. Stores never overlap each other. */
export interface MapKernel extends Common { readonly kind: "map"; readonly stores: readonly StoreTo[] }

/** `sum64` is a sum of floats with f64 inside, rounded once, where the backend has f64; elsewhere it is `sum`. */
export type ReduceOp = "sum" | "sum64" | "max" | "min";

/**
 * For each row (all axes but the last `rowAxes`): statistics in order, each the reduction of a formula along the row
 * (it may use earlier ones through leaf `stat`), then the stores. A store with `perRow` is written once a row.
 */
export interface RowsKernel extends Common {
  readonly kind: "rows";
  /** how many trailing axes form the row; 1 after merging in nearly every case */
  readonly rowAxes: number;
  readonly stats: readonly { readonly op: ReduceOp; readonly value: Expr }[];
  readonly stores: readonly (StoreTo & { readonly perRow: boolean })[];
}

/**
 * shape = [outer..., reduced..., inner...]: leaf `stat` 0 is the reduction of `value` along the reduced axes for each
 * (outer, inner) point; stores are evaluated once for each such point (their strides on reduced axes are 0).
 */
export interface ColsKernel extends Common {
  readonly kind: "cols";
  readonly outerAxes: number;
  readonly reducedAxes: number;
  readonly op: ReduceOp;
  readonly value: Expr;
  readonly stores: readonly StoreTo[];
}

/** One number a block: `values` itself, or fround(table[codes[b]]·values[floor(b / block)]) + offset where the numbers were quantized again. */
export interface BlockNumbers { readonly values: View; readonly nested?: { readonly codes: View; readonly table: View; readonly block: number; readonly offset: View } }
/**
 * How numbers come out of codes, in blocks of `block` elements: x(e) = fround(table[code(e)]·scale(⌊e / block⌋)) - min(⌊e / block⌋), in f32.
 * The codes' buffer holds bytes; with 4 bits element 2i lies in the high half of byte i and element 2i + 1 in the low one. `table` has 2^bits numbers.
 */
export interface Decode { readonly bits: 4 | 8; readonly block: number; readonly table: View; readonly scales: BlockNumbers; readonly mins?: BlockNumbers }
/** A matrix of a product; with `decode` the view's buffer holds codes, and offset and strides count elements, not bytes. */
export interface Factor extends View { readonly decode?: Decode }

/** Σ_k a[batch, m, k]·b[batch, k, n]: `a` has strides over [batch..., m, k] and `b` over [batch..., k, n]. Codes only where the backend says `decodes`. */
export interface Product { readonly k: number; readonly a: Factor; readonly b: Factor }

/**
 * shape = [batch..., m, n]; leaf `acc` = the product of a and b, plus those of `more` (x Wᵀ + (x Aᵀ) Bᵀ is one kernel),
 * in f32 (f64 for f64); operands of any dtype of float (half precision is widened while packing).
 * The stores are the epilogue over `shape`.
 */
export interface ContractKernel extends Common, Product {
  readonly kind: "contract";
  /** further products over the same batch, m and n, each with its own k; only where the backend says `products` > 1 */
  readonly more?: readonly Product[];
  readonly stores: readonly StoreTo[];
}

/** out[r, :] = table[clamp(ids[r], 0, limit - 1), :]; all contiguous; table [limit, cols] of any dtype, converted to out's. */
export interface GatherKernel { readonly kind: "gather"; readonly label: string; readonly table: View; readonly ids: View; readonly out: View; readonly rows: number; readonly cols: number; readonly limit: number }
/** out[v, :] = Σ_{r: ids[r] = v} source[r, :], added in order of r; out [limit, cols]; ids outside [0, limit) add nothing; all contiguous. */
export interface ScatterAddKernel { readonly kind: "scatterAdd"; readonly label: string; readonly source: View; readonly ids: View; readonly out: View; readonly rows: number; readonly cols: number; readonly limit: number }
/** A composite that this backend overrides (`Backend.composites`); operands contiguous. */
export interface CompositeKernel { readonly kind: "composite"; readonly label: string; readonly name: string; readonly attrs: unknown; readonly inputs: readonly (View & { readonly shape: readonly number[] })[]; readonly outputs: readonly (View & { readonly shape: readonly number[] })[]; readonly uniforms: readonly number[] }

export type Kernel = MapKernel | RowsKernel | ColsKernel | ContractKernel | GatherKernel | ScatterAddKernel | CompositeKernel;

/** slot, input and output live in the arena at `offset` bytes; a store is bound at run time by its number. */
export interface BufferSpec {
  readonly kind: "slot" | "input" | "output" | "store";
  readonly dtype: DType;
  /** elements */
  readonly length: number;
  /** bytes from the arena's start, a multiple of 64 (0 for stores) */
  readonly offset: number;
  /** position in Bindings.inputs, Bindings.stores, or in the returned outputs */
  readonly position: number;
  /** for messages: what the user calls the value, when the plan was made */
  readonly name?: string;
}

/** A schedule with its memory: everything but the numbers. Kernels run in order. */
export interface PlanSpec {
  readonly kernels: readonly Kernel[];
  readonly buffers: readonly BufferSpec[];
  readonly uniforms: readonly ("float" | "i32" | "u32")[];
  readonly arenaBytes: number;
  readonly inputs: number;
  readonly outputs: number;
}

/** What a store holds, as reports of memory tell it. */
export type StoreUse = "parameter" | "adapter" | "optimizer";
/** A device buffer that outlives plans: the cell of a store. */
export interface DeviceBuffer { readonly dtype: DType; readonly length: number; /** the engine writes it when somebody has said it */ use?: StoreUse }

/** The numbers of one run. */
export interface Bindings {
  readonly stores: readonly DeviceBuffer[];
  /** host numbers, or an answer of an earlier run that has stayed on the device */
  readonly inputs: readonly (TypedArray | DeviceBuffer)[];
  readonly uniforms: readonly number[];
}

/**
 * Results of one run, in the order of the plan's outputs. A device that can be read at once has `readSync`; another one
 * has `take`: the answer as a buffer on the device that the caller owns, reads, binds as an input and frees.
 */
export interface RunResult {
  readSync?(position: number): TypedArray;
  take?(position: number): DeviceBuffer;
}

/** Monotone or level counters; a steady-state step moves none of them. */
export interface Counters {
  /** bytes of the arena and of pooled memory, device buffers alive, wasm pages or GPU buffers alive, compiled modules, messages to workers */
  arenaBytes: number; bufferBytes: number; buffers: number; pages: number; modules: number; messages: number;
}

/** A plan made ready by a backend (code compiled, arguments laid out); opaque to the engine. */
export interface Prepared { readonly plan: PlanSpec }

export interface Backend {
  readonly name: string;
  /** f64 tensors exist on the reference backend only */
  readonly dtypes: ReadonlySet<DType>;
  /** fuse nodes into larger kernels (the reference runs one node a kernel) */
  readonly fuse: boolean;
  /** names of composites with a hand-written kernel here; everything else runs its definition */
  readonly composites: ReadonlySet<string>;
  readonly threads: number;
  /** whether dataSync works */
  readonly sync: boolean;
  /** how many products one contract kernel can add up (ContractKernel.more); 1 where absent */
  readonly products?: number;
  /** contract kernels read quantized operands (Factor.decode); `composites` then names `dequantize` too, for those that are wanted whole. Elsewhere they are decoded into memory first */
  readonly decodes?: boolean;
  readonly counters: Counters;
  alloc(dtype: DType, length: number): DeviceBuffer;
  free(buffer: DeviceBuffer): void;
  write(buffer: DeviceBuffer, data: TypedArray): void;
  read(buffer: DeviceBuffer): Promise<TypedArray>;
  readSync?(buffer: DeviceBuffer): TypedArray;
  prepare(plan: PlanSpec): Prepared;
  /** Queued; a CPU backend runs it before it returns. */
  run(prepared: Prepared, bindings: Bindings): RunResult;
  /** Resolves when at most `queued` runs are unfinished; devices that finish a run before `run` returns have none. */
  pace?(queued: number): Promise<void>;
  /** Gives code and argument memory of an evicted plan back. */
  release(prepared: Prepared): void;
  /** Readable source of a kernel of a plan, for explain. */
  source?(kernel: Kernel, plan: PlanSpec): string;
  /** Ends workers; the backend is unusable afterwards. */
  close?(): Promise<void>;
}
