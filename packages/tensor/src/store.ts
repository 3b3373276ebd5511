/** Cells that change: parameters, moments, caches, accumulators; and the counters that tick once a step. */
import type { Backend, DeviceBuffer, StoreUse } from "./backend.ts";
import { type DType, type HostArray, hostArray } from "./dtype.ts";
import { DTypeError, ShapeError } from "./errors.ts";
import { type Shape, checkShape, sameShape, show, sizeOf } from "./shape.ts";
import { type Numbers, type Op, Tensor, current as valueOf, scalar, widened } from "./tensor.ts";

/** The value that a store had at one version. */
export const readOp: Op = { name: "read", kind: "read" };
export interface ReadAttrs { readonly store: Store; readonly version: number }

/** Where the engine keeps a store's numbers. */
export interface Cell { device: Backend | null; buffer: DeviceBuffer | null; host: HostArray | null }

/** What the engine does when an assignment is recorded; it installs itself here. */
export const storeHooks: { beforeAssign(stores: readonly Store[], values: readonly Tensor[]): void; assigned(store: Store): void; afterAssign(): void; data(store: Store): Promise<HostArray>; dataSync(store: Store): HostArray } = {
  beforeAssign: () => undefined, assigned: () => undefined, afterAssign: () => undefined,
  data: () => Promise.reject(new Error("engine not loaded")), dataSync: () => { throw new Error("engine not loaded"); },
};

/**
 * A tensor whose value may be assigned. Used in a formula, it stands for the value it has at that moment of the recording.
 * @example const w = store(tensor([1, 2])); assign([w], [w.mul(2)]); await w.data(); // [2, 4]
 */
export class Store extends Tensor {
  readonly cell: Cell;
  /** how many assignments have been carried out */
  version = 0;
  #current: Tensor | null = null;
  #use: StoreUse | null = null;
  constructor(h: HostArray, name = "") {
    super(readOp, [], null, checkShape("store", h.shape), h.dtype);
    this.cell = { device: null, buffer: null, host: h };
    this.name = name;
  }
  /** the recorded value: a read of the cell (made when somebody asks, for a replayed step asks for none), or an assignment that still waits */
  get current(): Tensor { return (this.#current ??= this.read()); }
  set current(value: Tensor) { this.#current = value; }
  /** An assignment was carried out, or the numbers were replaced: from now on a read of the cell. */
  renew(): void {
    this.version++;
    this.#current = null;
  }
  /** A fresh read of the present version. */
  read(): Tensor {
    const t = new Tensor(readOp, [], { store: this, version: this.version } satisfies ReadAttrs, this.shape, this.dtype);
    t.name = this.name;
    return t;
  }
  override named(name: string): this { this.name = name; if (this.#current) this.#current.name ||= name; return this; }
  /** What it holds, for reports of memory: `memory().stores` and the GPU's `showMemory()`. */
  get use(): StoreUse | null { return this.#use; }
  usedAs(use: StoreUse): this {
    this.#use = use;
    if (this.cell.buffer) this.cell.buffer.use = use;
    return this;
  }
  /** An assignment is recorded and has not been carried out. */
  get pending(): boolean {
    if (this.#current === null) return false;
    const { op, attrs } = this.#current;
    return op !== readOp || (attrs as ReadAttrs).store !== this || (attrs as ReadAttrs).version !== this.version;
  }
  override async data(): Promise<Numbers> { return widened(await storeHooks.data(this)); }
  override dataSync(): Numbers { return widened(storeHooks.dataSync(this)); }
  override async host(): Promise<HostArray> { return storeHooks.data(this); }
  /** Replaces the numbers at once (loading a checkpoint); a waiting assignment is dropped. */
  set(h: HostArray): void {
    if (!sameShape(h.shape, this.shape)) throw new ShapeError(`store ${this.name}: ${show(h.shape)} does not replace ${show(this.shape)}`, { op: "set", key: this.name, shapes: [h.shape, this.shape] });
    if (h.dtype !== this.dtype) throw new DTypeError(`store ${this.name}: ${h.dtype} does not replace ${this.dtype}`, { op: "set", key: this.name, fix: `convert the array to ${this.dtype}` });
    this.cell.host = h;
    if (this.cell.buffer && this.cell.device) this.cell.device.write(this.cell.buffer, h.data);
    this.renew();
  }
}

/** A store that starts with these numbers (host array or an uncomputed-free tensor). */
export function store(initial: Tensor | HostArray, name = ""): Store {
  const h = initial instanceof Tensor ? hostOf(initial) : initial;
  return new Store({ dtype: h.dtype, shape: initial.shape, data: h.data.slice() }, name || (initial instanceof Tensor ? initial.name : ""));
}
/** A store of zeros. */
export const zeroStore = (shape: Shape, dtype: DType = "f32", name = ""): Store => new Store({ dtype, shape, data: hostArray(dtype, sizeOf(shape)) }, name);

/** From this line on each store means its new value; what was recorded before keeps the old one. */
export function assign(stores: readonly Store[], values: readonly Tensor[]): void {
  if (stores.length !== values.length) throw new ShapeError(`assign: ${stores.length} stores but ${values.length} values`, { op: "assign" });
  stores.forEach((s, i) => {
    const x = values[i];
    if (!sameShape(s.shape, x.shape)) throw new ShapeError(`assign: store ${s.name || i} has shape ${show(s.shape)}, its new value ${show(x.shape)}`, { op: "assign", key: s.name, shapes: [s.shape, x.shape] });
    if (s.dtype !== x.dtype) throw new DTypeError(`assign: store ${s.name || i} is ${s.dtype}, its new value ${x.dtype}`, { op: "assign", key: s.name, fix: `cast the value: x.cast("${s.dtype}")` });
  });
  const now = values.map(valueOf);
  storeHooks.beforeAssign(stores, now);
  // a value may have been computed by now; a store assigned to itself does not change
  stores.forEach((s, i) => { s.current = ofItsOwn(s, valueOf(now[i])); if (s.pending) storeHooks.assigned(s); });
  storeHooks.afterAssign();
}

/** Another store's value is read anew, so that it can become this store's without ceasing to be that one's. */
const ofItsOwn = (s: Store, v: Tensor): Tensor => (v.op === readOp && (v.attrs as ReadAttrs).store !== s ? new Tensor(readOp, [], v.attrs, v.shape, v.dtype) : v);

/** A host integer that ticks once per executed step; saved with the optimizer. */
export class Counter {
  value: number;
  readonly name: string;
  constructor(value = 0, name = "step") { this.value = value; this.name = name; }
  /** Recorded like an assignment: happens now and again in every replay of a compiled step. */
  tick(): void { this.value++; tickHook(this); }
}
let tickHook: (c: Counter) => void = () => undefined;
export const onTick = (f: (c: Counter) => void): void => { tickHook = f; };
export const counter = (value = 0, name = "step"): Counter => new Counter(value, name);

/** How a live scalar is recomputed in a replay. */
export interface Live { readonly counter: Counter; readonly f: (value: number) => number; readonly offset: number }
export const liveNumbers: WeakMap<Tensor, Live> = new WeakMap();

/** f(counter) as a number that enters as data; evaluated on the host in f64 once per executed step. */
export function live(c: Counter, f: (value: number) => number, dtype: DType = "f32"): Tensor {
  const t = scalar(f(c.value), dtype);
  liveNumbers.set(t, { counter: c, f, offset: c.value });
  return t;
}

function hostOf(t: Tensor): HostArray {
  if (!t.value) t.dataSync();
  return t.value!;
}
