/**
 * Random training loops: what a plain loop, a scope and a compiled step leave in the stores must be, bit for bit, what
 * evaluating every step by itself on fresh arrays gives.
 */
import fc from "fast-check";
import { type Backend, type HostArray, type Tensor, AdjointError, StaleError, assign, compile, counter, flushAll, fromHost, getDevice, live, mean, sameShape, scalar, scope, setDevice, store } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { type Draw, draws, hostOf, showDraw } from "./arbitraries.ts";
import { evaluate } from "./evaluate.ts";
import { type Program, type Word, interpret, programs, showProgram, wordName } from "./graphs.ts";

/** A step assigns to its stores from the values of two programs; the second sees what the first assigned. */
export interface Loop {
  /** the leaves of the program are the stores; one more leaf is the step's data */
  readonly program: Program;
  readonly data: Draw;
  readonly assignments: readonly { readonly store: number; readonly value: number; readonly how: "value" | "tanh" | "descent" | "rate" }[];
  readonly then: readonly Word[];
  readonly last: { readonly store: number; readonly value: number };
  readonly steps: number;
}

/** The arithmetic of one step on given inputs: what each phase assigns, and the loss. */
interface Phases { readonly loss: Tensor; readonly first: ReadonlyMap<number, Tensor> }
const SMALL = 0.25;

function firstPhase(loop: Loop, stores: readonly Tensor[], data: Tensor, rate: Tensor): Phases {
  const { values } = interpret(loop.program, [...stores, data]), loss = values.slice(-3).map((v) => mean(v)).reduce((a, b) => a.add(b)), first = new Map<number, Tensor>();
  const descent = loop.assignments.some((a) => a.how === "descent") ? gradients(loss.add(stores.map((s) => mean(s).mul(0)).reduce((a, b) => a.add(b))), [...stores]) : [];
  for (const a of loop.assignments) {
    const i = a.store % stores.length, fits = values.filter((v) => sameShape(v.shape, stores[i].shape) && v.dtype === stores[i].dtype), v = fits[a.value % fits.length];
    const g = descent[i];
    first.set(i, a.how === "value" ? v : a.how === "tanh" ? v.tanh() : a.how === "rate" ? v.tanh().mul(rate) : g ? stores[i].sub(g.mul(SMALL)).tanh() : v);
  }
  return { loss, first };
}
function secondPhase(loop: Loop, stores: readonly Tensor[], data: Tensor): [number, Tensor] {
  const { values } = interpret({ ...loop.program, words: loop.then }, [...stores, data]), i = loop.last.store % stores.length;
  const fits = values.filter((v) => sameShape(v.shape, stores[i].shape) && v.dtype === stores[i].dtype);
  return [i, fits[loop.last.value % fits.length].tanh()];
}
const dataOf = (loop: Loop, t: number, float: "f32" | "f64"): HostArray => hostOf({ ...loop.data, values: loop.data.values.map((x) => x + t / 16) }, float);
const rateAt = (t: number): number => 1 / (t + 2);

/** What a loop leaves behind: the losses (null where the engine says that a value is stale) and the stores. */
export interface Trace { readonly losses: readonly (number | null)[]; readonly stores: readonly (readonly number[])[] }

/** Every step alone, on fresh arrays. */
export async function stateless(loop: Loop, backend: Backend, float: "f32" | "f64" = "f32"): Promise<Trace> {
  let state = loop.program.leaves.map((d) => hostOf(d, float));
  const losses: number[] = [], back = (values: readonly number[], like: HostArray): HostArray => hostOf({ shape: like.shape, dtype: like.dtype, values }, float);
  for (let t = 0; t < loop.steps; t++) {
    const data = dataOf(loop, t, float), xs = state.map(fromHost), { loss, first } = firstPhase(loop, xs, fromHost(data), scalar(rateAt(t), float));
    const after = xs.map((x, i) => first.get(i) ?? x), [where, value] = secondPhase(loop, after, fromHost(data));
    const results = await evaluate([loss, ...after.map((x, i) => (i === where ? value : x))], backend);
    losses.push(results[0][0]);
    state = state.map((s, i) => back(results[i + 1], s));
  }
  return { losses, stores: state.map((s) => [...s.data]) };
}

/** How a loop is driven. */
export const drivers = ["plain, read at every step", "plain, read at the end", "scope", "compile"] as const;
export type Driver = (typeof drivers)[number];

/** The loop with stores and assignments on a device. */
export async function stateful(loop: Loop, backend: Backend, driver: Driver, float: "f32" | "f64" = "f32"): Promise<Trace> {
  const device = getDevice(), stores = loop.program.leaves.map((d, i) => store(hostOf(d, float), `v${i}`)), c = counter();
  setDevice(backend);
  try {
    const step = (data: Tensor): Tensor => {
      const { loss, first } = firstPhase(loop, stores, data, live(c, rateAt, float));
      assign([...first.keys()].map((i) => stores[i]), [...first.values()]);
      const [where, value] = secondPhase(loop, stores, data);
      assign([stores[where]], [value]);
      c.tick();
      return loss;
    };
    const compiled = compile(step), losses: Tensor[] = [], read: (number | null)[] = [];
    for (let t = 0; t < loop.steps; t++) {
      const data = fromHost(dataOf(loop, t, float)), loss = driver === "scope" ? scope(() => step(data)) : driver === "compile" ? compiled(data) : step(data);
      losses.push(loss);
      if (driver === "plain, read at every step") read.push(await orStale(() => loss.item(), driver));
    }
    flushAll();
    if (read.length === 0) for (const loss of losses) read.push(await orStale(() => loss.item(), driver));
    return { losses: read, stores: await Promise.all(stores.map(async (s) => [...(await s.data())])) };
  } finally {
    stores.forEach((s, i) => { s.set(hostOf(loop.program.leaves[i], float)); });   // a failed step leaves nothing waiting
    setDevice(device);
  }
}
/** Outside scopes an assignment to a store that still waits is a flush, so a value that no plan computed may be stale; never wrong. */
async function orStale(read: () => Promise<number>, driver: Driver): Promise<number | null> {
  try { return await read(); } catch (error) {
    if (error instanceof StaleError && driver.startsWith("plain")) return null;
    throw error;
  }
}

/** Compares two traces bit for bit. */
export function compareTraces(expected: Trace, got: Trace, title: string): void {
  const same = (a: number, b: number): boolean => a === b || (Number.isNaN(a) && Number.isNaN(b));
  expected.losses.forEach((x, t) => { const y = got.losses[t]; if (y !== null && !same(x ?? NaN, y)) throw new AdjointError(`${title}: the loss of step ${t} is ${y}, evaluated alone it is ${x}`, { op: "loop" }); });
  expected.stores.forEach((s, i) => s.forEach((x, j) => { if (!same(x, got.stores[i][j])) throw new AdjointError(`${title}: element ${j} of store v${i} ends as ${got.stores[i][j]}, evaluated alone it is ${x}`, { op: "loop" }); }));
}

/** Random loops of a few steps. With `halves` false, no value passes through half precision (for f64). */
export function loops(length = 8, halves = true): fc.Arbitrary<Loop> {
  const index = fc.nat(7), keep = (w: Word): boolean => halves || wordName(w) !== "half";
  return fc.record({
    program: programs(length), data: fc.constantFrom([3, 3], [2, 3], [3], [1], [3, 2, 3]).chain((s) => draws(s)),
    assignments: fc.array(fc.record({ store: index, value: index, how: fc.constantFrom("value" as const, "tanh" as const, "descent" as const, "rate" as const) }), { minLength: 1, maxLength: 4 }),
    then: programs(4).map((p) => p.words), last: fc.record({ store: index, value: index }), steps: fc.integer({ min: 1, max: 4 }),
  }).map((l): Loop => ({ ...l, program: { ...l.program, words: l.program.words.filter(keep) }, then: l.then.filter(keep) }))
    .map((l) => Object.defineProperty(l, fc.toStringMethod, { value: () => `${showProgram(l.program)}\ndata ${showDraw(l.data)}\nassign ${JSON.stringify(l.assignments)}\nthen ${JSON.stringify(l.then)} into ${JSON.stringify(l.last)}, ${l.steps} steps`, enumerable: false }));
}
