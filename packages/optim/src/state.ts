/** An optimizer's memory as named arrays: saved between steps, loaded strictly. */
import { type Counter, FormatError, type HostArray, type Store, flushAll, getDevice, sameShape, show } from "@adjoint/tensor";

/** What of a bound optimizer is saved. */
export interface Saved {
  readonly name: string;
  readonly counter: Counter;
  readonly params: Readonly<Record<string, Store>>;
  readonly updates: Readonly<Record<string, Counter>>;
  readonly states: Readonly<Record<string, Readonly<Record<string, Store>>>>;
}

/** `<name>.<path>`; a tree that is one tensor has no path. */
export const joinPath = (name: string, path: string): string => (path === "" ? `${name}._` : `${name}.${path}`);

const counters = (o: Saved): [string, Counter][] => [["step", o.counter], ...Object.entries(o.updates).map(([path, c]): [string, Counter] => [joinPath("step", path), c])];
const cells = (o: Saved): [string, Store][] => Object.entries(o.states).flatMap(([name, leaves]) => Object.entries(leaves).map(([path, s]): [string, Store] => [joinPath(name, path), s]));

const read = async (s: Store): Promise<HostArray> => (getDevice().sync ? { dtype: s.dtype, shape: s.shape, data: s.dataSync() } : s.host());

/** On a device that can be read at once the snapshot is taken before this returns. */
export async function saveState(o: Saved): Promise<Record<string, HostArray>> {
  const out: Record<string, HostArray> = {};
  for (const [name, c] of counters(o)) out[name] = { dtype: "i32", shape: [], data: new Int32Array([c.value]) };
  const named = cells(o), arrays = await Promise.all(named.map(([, s]) => read(s)));
  named.forEach(([name], i) => { out[name] = { ...arrays[i], data: arrays[i].data.slice() }; });
  return out;
}

/** Whether a value is a tensor that the host holds: a dtype, a shape, and as many numbers. */
export function isHostArray(value: unknown): value is HostArray {
  if (typeof value !== "object" || value === null || !("dtype" in value && "shape" in value && "data" in value)) return false;
  const { shape, data } = value;
  return typeof value.dtype === "string" && Array.isArray(shape) && ArrayBuffer.isView(data) && "length" in data && data.length === shape.reduce<number>((n, x) => n * Number(x), 1);
}

/** Checks everything, then changes everything. */
export function loadState(o: Saved, state: Readonly<Record<string, HostArray>>): void {
  const given: unknown = state;
  if (typeof given !== "object" || given === null) throw new FormatError(`${o.name}: a saved state is an object of named tensors, got ${given === null ? "null" : typeof given}`, { op: `${o.name}.load`, key: "state", value: given, fix: "give what `state` gave, or the tensors of its file" });
  for (const [name, h] of Object.entries<unknown>(state)) if (!isHostArray(h)) throw new FormatError(`${o.name}: ${name} is no tensor { dtype, shape, data } of the saved state`, { op: `${o.name}.load`, key: name, fix: "give what `state` gave, or the tensors of its file" });
  const ticks = counters(o), stores = cells(o), expected = new Set([...ticks, ...stores].map(([name]) => name));
  const missing = [...expected].filter((name) => !(name in state)), unexpected = Object.keys(state).filter((name) => !expected.has(name));
  if (missing.length || unexpected.length) {
    const list = (what: string, names: readonly string[]): string => (names.length ? `\n  ${what} (${names.length}): ${names.slice(0, 8).join(", ")}${names.length > 8 ? ", ..." : ""}` : "");
    throw new FormatError(`${o.name}: the saved state is of another set of parameters or another optimizer${list("missing", missing)}${list("unexpected", unexpected)}`, { op: `${o.name}.load`, key: missing[0] ?? unexpected[0], value: { missing, unexpected }, fix: "load the state with the optimizer, model and adapter that it was saved with" });
  }
  for (const [name, s] of stores) {
    const h = state[name];
    if (!sameShape(h.shape, s.shape)) throw new FormatError(`${o.name}: ${name} has shape ${show(h.shape)} in the saved state, ${show(s.shape)} here`, { op: `${o.name}.load`, key: name, shapes: [h.shape, s.shape] });
    if (h.dtype !== s.dtype) throw new FormatError(`${o.name}: ${name} is ${h.dtype} in the saved state, ${s.dtype} here`, { op: `${o.name}.load`, key: name, value: h.dtype });
  }
  const values = ticks.map(([name]) => {
    const h = state[name], t = Number(h.data[0]);
    if (h.data.length !== 1 || !Number.isInteger(t) || t < 0) throw new FormatError(`${o.name}: ${name} must be one count of at least 0, the saved state holds ${h.data.length === 1 ? t : `${h.data.length} numbers`}`, { op: `${o.name}.load`, key: name, value: t });
    return t;
  });
  flushAll();                                    // what was recorded before still means the old numbers
  ticks.forEach(([, c], i) => { c.value = values[i]; });
  for (const [name, s] of stores) s.set({ dtype: s.dtype, shape: s.shape, data: state[name].data.slice() });
}
