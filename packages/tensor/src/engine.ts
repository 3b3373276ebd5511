/** The engine: what is pending, when it is flushed, and where numbers live. */
import { boundTo, receive } from "./answer.ts";
import type { Backend, Bindings, DeviceBuffer, RunResult, StoreUse } from "./backend.ts";
import { SMALL_BYTES, companions, isComputation, overtaken, smallOnes, waits } from "./companions.ts";
import { type HostArray, bytesOf, decode } from "./dtype.ts";
import { ConfigError, DeviceError, StaleError } from "./errors.ts";
import { type GNode, type Graph, buildGraph, postorder } from "./graph.ts";
import { checkIds, type LimitAttrs } from "./ops/indexing.ts";
import { reshapeOp } from "./ops/views.ts";
import { type Plan, PlanCache, type Write, makePlan } from "./plan.ts";
import { type State, internal, state } from "./state.ts";
import { type ReadAttrs, type Store, readOp, storeHooks } from "./store.ts";
import { type Tensor, copyOp, hasNumbers, hooks, leafOp, record, recordingTime, scalarOp } from "./tensor.ts";

const MAX_PENDING = 20_000;
const caches = new WeakMap<Backend, PlanCache>();
const cacheOf = (device: Backend): PlanCache => {
  let c = caches.get(device);
  if (!c) caches.set(device, (c = new PlanCache()));
  return c;
};

/** The device of everything that is not bound to another one; the reference backend until somebody chooses. */
export const getDevice = (): Backend => state.device;
/**
 * Chooses the default device. Stores move when they are next used.
 * @throws ConfigError for what is no device, such as a promise of one
 * @example setDevice(await wasm());
 */
export function setDevice(device: Backend): Backend {
  const given: unknown = device;
  if (typeof given !== "object" || given === null || !("prepare" in given)) {
    const what = given instanceof Promise ? "a promise of a device" : typeof given === "string" ? JSON.stringify(given) : `of type ${typeof given}`;
    throw new ConfigError(`setDevice: the device is ${what}`, { op: "setDevice", key: "device", value: given, fix: "setDevice(await wasm()), or setDevice(await webgpu())" });
  }
  flushAll();
  state.device = device;
  state.chosen = true;
  return device;
}
/** Whether anybody has chosen a device; where nobody has, loading a model takes the CPU backend. */
export const deviceChosen = (): boolean => state.chosen;
/** Whether compile is recording (reads throw). */
export const engineState: State = state;

export { internal };

/** Computes t along with the next plan that computes its inputs, whatever its size, so that it can be read later. */
export function keep<T extends Tensor>(t: T): T {
  state.kept.add(t);
  if (!state.small.includes(t)) state.small.push(t);
  return t;
}

// ---- one flush ------------------------------------------------------------------------------------------------------

/** What a recording asks for, bound to a plan: everything that a replay needs. */
export interface Bound {
  readonly plan: Plan;
  readonly outputs: readonly Tensor[];
  /** position of each output among the plan's answers */
  readonly positions: readonly number[];
  readonly writes: readonly { readonly store: Store; readonly value: Tensor }[];
  readonly leaves: readonly Tensor[];
  readonly scalars: readonly Tensor[];
  readonly stores: readonly Store[];
  /** positions in `leaves` that hold ids, with their limit */
  readonly checks: readonly Check[];
}

/** The computed value whose numbers t shows in order: memory is linear, so a store takes them in any shape. Values that others have already stay as they are. */
function unshaped(t: Tensor): Tensor {
  let v = t;
  while (v.op === reshapeOp && !hasNumbers(v) && !v.alias) v = v.inputs[0];
  return needsCopy(v) || v.alias ? t : v;
}
const needsCopy = (t: Tensor): boolean => t.op === readOp || t.op === scalarOp || t.op === leafOp || t.op.kind === "view" || hasNumbers(t);

/** Builds (or finds) the plan of these outputs and assignments. */
export function bind(outputs: readonly Tensor[], stores: readonly Store[]): Bound {
  const device = state.device, composites = device.composites;
  const roots = internal(() => outputs.map((t) => (t.alias || needsCopy(t) ? record(copyOp, [t], null, t.shape, t.dtype) : t)));
  const used = new Set<Tensor>();
  const values = internal(() => stores.map((s) => {
    const v = unshaped(s.current), own = needsCopy(v) || v.alias !== null || used.has(v);
    used.add(v);
    return own ? record(copyOp, [v], null, v.shape, v.dtype) : v;
  }));
  const graph = buildGraph([...roots, ...values], composites);
  // equal recipes are one node: a second store or answer of the same node gets its own copy inside the plan
  const outNodes: GNode[] = [], writeNodes: Write[] = [], allStores = [...graph.stores], number = new Map(allStores.map((s, i) => [s, i]));
  roots.forEach((t) => outNodes.push(graph.of(t)));
  stores.forEach((s, i) => {
    let n = number.get(s);
    if (n === undefined) { n = allStores.push(s) - 1; number.set(s, n); }
    writeNodes.push({ store: n, node: graph.of(values[i]) });
  });
  const key = `${graph.key}\no${outNodes.map((n) => n.number).join()}w${writeNodes.map((w) => `${w.store}:${w.node.number}`).join()}`;
  const plan = cacheOf(device).get(key, () => {
    const spec = makePlan(graph, [...new Set(outNodes)], writeNodes, device.fuse, device.products, device.decodes);
    return { spec, prepared: device.prepare(spec), device };
  });
  const unique = [...new Set(outNodes)];
  return {
    plan, writes: stores.map((store, i) => ({ store, value: values[i] })), leaves: graph.leaves, scalars: graph.scalars, stores: allStores, checks: checksOf(graph),
    outputs, positions: outNodes.map((n) => unique.indexOf(n)),
  };
}
/** A leaf of ids that must lie below a limit, and what an error says. */
interface Check { readonly leaf: number; readonly limit: number; readonly op: string; readonly fix: string | undefined }
function checksOf(graph: Graph): Check[] {
  const out: Check[] = [];
  for (const n of graph.nodes) {
    if (n.op.kind !== "gather" && n.op.kind !== "scatterAdd") continue;
    let ids = n.inputs[1];
    while (ids.op.kind === "view") ids = ids.inputs[0];
    const { limit, op = n.op.name, fix } = n.attrs as LimitAttrs;
    if (ids.op === leafOp) out.push({ leaf: ids.position, limit, op, fix });
  }
  return out;
}
/** Puts a store's numbers on the device. */
export function place(store: Store, device: Backend): void {
  const { cell } = store;
  if (cell.device === device && cell.buffer) return;
  if (cell.device && cell.buffer) {
    if (cell.device.readSync) cell.host = { dtype: store.dtype, shape: store.shape, data: cell.device.readSync(cell.buffer) };
    if (!cell.host) throw new DeviceError(`store ${store.name} lives on ${cell.device.name}, which cannot be read at once; it is wanted on ${device.name}`, { op: "place", key: store.name, fix: "await store.data() first" });
    cell.device.free(cell.buffer);
    placedOn(cell.device).delete(cell.buffer);
    registry.unregister(cell);
  }
  const buffer = device.alloc(store.dtype, store.size);
  if (store.use !== null) buffer.use = store.use;
  placedOn(device).add(buffer);
  device.write(buffer, cell.host!.data);
  cell.device = device; cell.buffer = buffer; cell.host = null;
  registry.register(store, { device, buffer }, cell);
}
const registry = new FinalizationRegistry<{ device: Backend; buffer: DeviceBuffer }>(({ device, buffer }) => { placedOn(device).delete(buffer); device.free(buffer); });
/** Buffers of the stores on each device. */
const placed = new WeakMap<Backend, Set<DeviceBuffer>>();
function placedOn(device: Backend): Set<DeviceBuffer> {
  let s = placed.get(device);
  if (!s) placed.set(device, (s = new Set()));
  return s;
}

/** Runs a bound plan with these numbers; returns the outputs in plan order. */
export function execute(b: Bound, inputs: Bindings["inputs"], uniforms: readonly number[]): RunResult {
  const { device } = b.plan;
  for (const c of b.checks) {
    const ids = inputs[c.leaf];
    if (ArrayBuffer.isView(ids)) checkIds(c.op, ids, c.limit, c.fix); // ids that were made on the device are clamped there
  }
  for (const s of b.stores) place(s, device);
  const bindings: Bindings = { stores: b.stores.map((s) => s.cell.buffer!), inputs, uniforms };
  state.flushes++;
  state.kernels += b.plan.spec.kernels.length;
  const result = device.run(b.plan.prepared, bindings);
  for (const { store } of b.writes) {
    store.cell.host = null;
    store.renew();
    state.pending.delete(store);
  }
  return result;
}
/** A scalar as a number: half-precision scalars are stored as bits. */
export const numberOf = (t: Tensor): number => decode(t.dtype, t.value!.data[0]);
export const scalarValues = (scalars: readonly Tensor[]): number[] => scalars.map(numberOf);
/** The leaves of a plan as its device wants them. */
export const leafValues = (b: Bound): Bindings["inputs"] => b.leaves.map((t) => boundTo(t, b.plan.device));

function run(b: Bound): void {
  const before = b.writes.map(({ store }) => store.current);
  const result = execute(b, leafValues(b), scalarValues(b.scalars));
  retire(b, before);
  deliver(b, result);
}
/** What was assigned is the store's new value from now on. */
export function retire(b: Bound, before: readonly Tensor[]): void {
  b.writes.forEach(({ store }, i) => {
    const t = before[i];
    if (t.op !== leafOp && t.op !== scalarOp && !hasNumbers(t)) { t.alias = store.current; t.inputs = []; t.computed = true; }
  });
}
/** Gives each output its numbers, or the device's buffer that holds them, and lets its recipe go. */
export function deliver(b: Bound, result: RunResult, into: readonly Tensor[] = b.outputs): void {
  if (result.readSync) for (let i = 0; i < into.length; i++) into[i].value = { dtype: into[i].dtype, shape: into[i].shape, data: result.readSync(b.positions[i]) };
  else receive(b.plan.device, result, into, b.positions);
  for (const t of into) { t.inputs = []; t.computed = true; }
}

/**
 * Computes these values, together with what belongs to the same plan. A waiting assignment whose recipe reads what was overwritten (`Store.set`) can never be
 * carried out: whoever asks for that store gets the StaleError, and everybody else goes on without it.
 */
function flush(wanted: readonly Tensor[], stores: Iterable<Store>): void {
  for (;;) {
    const before = state.pending.size;
    try {
      flushOnce(wanted, stores);
      return;
    } catch (error) {
      if (!(error instanceof StaleError) || state.pending.size === before) throw error;
    }
  }
}
function flushOnce(wanted: readonly Tensor[], stores: Iterable<Store>): void {
  const chosen = new Set(stores), outs = [...new Set(wanted)].filter((t) => !hasNumbers(t));
  companions(wanted, chosen);
  carryOut(outs, chosen, smallOnes(outs, chosen));
}
function carryOut(outs: readonly Tensor[], chosen: ReadonlySet<Store>, { taken, rest }: ReturnType<typeof smallOnes>): void {
  const all = [...outs, ...taken];
  state.small = rest.filter(waits);
  if (all.length === 0 && chosen.size === 0) return;
  state.recorded = 0;
  try {
    run(bind(all, [...chosen]));
  } catch (error) {
    if (error instanceof StaleError) for (const s of chosen) if (isStale(s.current)) state.pending.delete(s);
    throw error;
  }
}
/** Whether a recipe reads a version that its store no longer has. */
const isStale = (t: Tensor): boolean => postorder([t], state.device.composites).some((x) => {
  if (x.op !== readOp || hasNumbers(x)) return false;
  const { store, version } = x.attrs as ReadAttrs;
  return version !== store.version;
});
/**
 * Carries out waiting assignments of stores that are about to be assigned `next`.
 *
 * Assignments made since `next` was recorded belong to the step that is being assigned, and other values of that step may
 * still read what they replace: they come along only if this flush would make them stale. Values of `next` that it would
 * make stale are computed by it.
 */
function flushBefore(waiting: readonly Store[], next: readonly Tensor[]): void {
  const recorded = Math.min(...next.filter(isComputation).map((t) => t.id)), composites = state.device.composites;
  const isNew = (s: Store): boolean => (state.since.get(s) ?? 0) > recorded;
  const chosen = new Set(waiting), outs: Tensor[] = [], old = [...state.pending].filter((s) => !isNew(s));
  for (;;) {
    companions(outs, chosen, old);
    const small = smallOnes(outs, chosen), young = [...state.pending].filter((s) => isNew(s) && !chosen.has(s));
    const ends = new Set([...outs, ...small.taken, ...[...chosen].map((s) => s.current)]);
    const over = overtaken([...next, ...young.map((s) => s.current)], ends, chosen, composites);
    const late = [...new Set(next)].filter((t) => over.has(t)), dragged = young.filter((s) => over.has(s.current));
    if (late.length + dragged.length === 0) { carryOut(outs, chosen, small); return; }
    outs.push(...late);
    dragged.forEach((s) => { chosen.add(s); });
  }
}
/** Carries out every waiting assignment. */
export function flushAll(): void {
  if (state.pending.size) flush([], state.pending);
}
/** Computes values and every waiting assignment as one plan (the end of a scope). */
export function flushWith(values: readonly Tensor[]): void { flush(values, state.pending); }

// ---- hooks --------------------------------------------------------------------------------------------------------

hooks.recorded = (t) => {
  if (state.compiling) return;
  state.recorded++;
  if (state.internal === 0 && t.bytes <= SMALL_BYTES && t.op.kind !== "view") state.small.push(t);
  // never in the middle of a vjp, an optimizer's step or the making of a plan
  if (state.recorded > MAX_PENDING && state.scopes === 0 && state.internal === 0) {
    state.recorded = 0;
    flushAll();
    state.small = state.small.slice(-1000);
  }
};
const refuse = (): void => {
  if (state.compiling) throw new ConfigError("reading a value inside compile would need numbers that do not exist yet", { op: "compile", fix: "return the value from the step and read it outside" });
};
hooks.materialiseSync = (ts) => {
  refuse();
  const far = ts.find((t) => t.resident)?.resident?.device ?? (state.device.sync ? null : state.device);
  if (far) throw new DeviceError(`${far.name} can only be read asynchronously`, { op: "dataSync", fix: "await t.data()" });
  flush(ts, []);
};
hooks.materialise = async (ts) => {
  refuse();
  if (!ts.every(hasNumbers)) flush(ts, []);
  for (const t of ts) await t.resident?.arrive();
  await breathe();
};
/** Computes a value without reading it: on a device that can be read at once its numbers are here afterwards. */
export function compute(t: Tensor): void {
  refuse();
  if (!hasNumbers(t)) flush([t], []);
}
/**
 * Resolves when at most `queued` runs of the device are unfinished; called once a step, it keeps a loop that reads nothing from
 * running ahead of the device. Gives timers and pages a turn as `breathe` does.
 */
export async function pace(queued = 2): Promise<void> {
  await state.device.pace?.(queued);
  await breathe();
}
/** Gives timers, signals and pages a turn at least every 50 ms. */
export async function breathe(): Promise<void> {
  const now = performance.now();
  if (now - state.lastYield < 50) return;
  await new Promise((r) => { setTimeout(r, 0); });
  state.lastYield = performance.now();
}

storeHooks.beforeAssign = (stores, values) => {
  if (state.compiling || state.scopes > 0) return;
  const waiting = stores.filter((s) => s.pending);
  if (waiting.length) flushBefore(waiting, values);
};
storeHooks.assigned = (s) => { state.pending.add(s); state.since.set(s, recordingTime()); };
storeHooks.data = async (s) => {
  refuse();
  settle(s);
  const { version, cell: { host, device, buffer } } = s;
  if (host || !device || !buffer) { await breathe(); return host!; }
  const read: HostArray = { dtype: s.dtype, shape: s.shape, data: await device.read(buffer) };
  // another device takes the numbers from here
  if (!device.readSync && s.version === version) s.cell.host = read;
  await breathe();
  return read;
};
storeHooks.dataSync = (s) => {
  refuse();
  settle(s);
  if (s.cell.host) return s.cell.host;
  if (!s.cell.device?.readSync) throw new DeviceError(`${s.cell.device?.name ?? "this device"} can only be read asynchronously`, { op: "dataSync", fix: "await store.data()" });
  return { dtype: s.dtype, shape: s.shape, data: s.cell.device.readSync(s.cell.buffer!) };
};
const settle = (s: Store): void => { if (s.pending) flush([], [s]); };

// ---- reports --------------------------------------------------------------------------------------------------------

/** Counters and bytes of the engine and its device; a steady-state step moves none but `flushes` and `kernels`. */
export interface MemoryReport {
  readonly device: string; readonly plans: number; readonly plansMade: number; readonly arenaBytes: number; readonly bufferBytes: number; readonly buffers: number;
  readonly pages: number; readonly modules: number; readonly messages: number; readonly flushes: number; readonly kernels: number; readonly pendingStores: number;
  /** bytes of the stores on the device by what they hold (`Store.usedAs`) */
  readonly stores: Readonly<Record<StoreUse | "other", number>>;
}
export function memory(device: Backend = state.device): MemoryReport {
  const c = cacheOf(device), stores = { parameter: 0, adapter: 0, optimizer: 0, other: 0 };
  for (const b of placedOn(device)) stores[b.use ?? "other"] += b.length * bytesOf(b.dtype);
  return { device: device.name, plans: c.size, plansMade: c.made, ...device.counters, flushes: state.flushes, kernels: state.kernels, pendingStores: state.pending.size, stores };
}
/** The plan that computing these values now would run. */
export function planOf(values: readonly Tensor[]): Plan {
  const chosen = new Set<Store>();
  companions(values, chosen);
  return bind(values.filter((t) => !hasNumbers(t)), [...chosen]).plan;
}
/** Drops all cached plans of a device (tests). */
export const clearPlans = (device: Backend = state.device): void => { cacheOf(device).clear(); };
