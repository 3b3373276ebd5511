/** compile and scope: one plan for a whole step. */
import type { Backend } from "./backend.ts";
import { roundTo } from "./dtype.ts";
import { ConfigError } from "./errors.ts";
import { boundTo } from "./answer.ts";
import { type Bound, bind, compute, deliver, engineState, execute, flushAll, flushWith, leafValues, retire, scalarValues } from "./engine.ts";
import { Derived } from "./derived.ts";
import { type Counter, type Live, Store, liveNumbers, onTick } from "./store.ts";
import { Tensor, fromHost, hasNumbers, leafOp } from "./tensor.ts";
import { flatten, mapTree } from "./tree.ts";

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
/** Stands for its present value: neither data of a step nor a result. */
const isPlace = (x: unknown): x is Store | Derived => x instanceof Store || x instanceof Derived;
let structure = 0;
/** Says that what steps record has changed (an adapter attached, switched, merged ...): compiled steps record again. */
export const structureChanged = (): void => { structure++; };

let ticks: Counter[] = [];
onTick((c) => { if (engineState.compiling) ticks.push(c); });

function promiseLike(x: unknown): boolean { return typeof x === "object" && x !== null && "then" in x; }

/**
 * Runs f; what it returns and every assignment made inside become one plan when it ends.
 * f must be synchronous.
 */
export function scope<R>(f: () => R): R {
  engineState.scopes++;
  let out: R;
  try { out = f(); } finally { engineState.scopes--; }
  if (promiseLike(out)) throw new ConfigError("scope: the body returned a promise; recording is synchronous", { op: "scope", fix: "return tensors and await their data outside" });
  if (engineState.scopes === 0 && !engineState.compiling) flushWith(flatten(out, isTensor).leaves.filter((t) => !isPlace(t)));
  return out;
}

interface Recording {
  readonly bound: Bound;
  /** for each leaf of the plan: which argument it is, or null for a constant of the recording */
  readonly arguments: readonly (number | null)[];
  readonly ticks: readonly Counter[];
  /** numbers of all scalars; those of `live` are put in before each replay: f(counter + ahead) */
  readonly uniforms: number[];
  readonly live: readonly { readonly at: number; readonly dtype: Tensor["dtype"]; readonly live: Live; readonly ahead: number }[];
  readonly result: unknown;
  /** what the outputs are like, in the plan's order */
  readonly slots: readonly Slot[];
  readonly device: Backend;
}

/**
 * Records `step` once per signature (tree, shapes and dtypes of its tensors; plain arguments by value) and replays the
 * plan afterwards: an optimisation only. Tensors among the arguments are data; class instances are entered for their
 * tensors alone; plain numbers, strings and booleans of plain objects are part of the signature.
 */
export function compile<A extends readonly unknown[], R>(step: (...args: A) => R): (...args: A) => R {
  const recordings = new Map<string, Recording>();
  return (...args: A): R => {
    if (engineState.compiling) return step(...args);
    const inputs = flatten(args, isTensor).leaves.filter((t) => !isPlace(t));
    for (const t of inputs) compute(t);
    const key = `${structure}|${signature(args, inputs)}`;
    const found = recordings.get(key);
    if (found && found.device === engineState.device) return replay<R>(found, inputs);
    const made = recordStep(step, args, inputs);
    if (recordings.size >= 16) recordings.delete(recordings.keys().next().value!);
    recordings.set(key, made.recording);
    return made.result;
  };
}

function recordStep<A extends readonly unknown[], R>(step: (...args: A) => R, args: A, inputs: readonly Tensor[]): { recording: Recording; result: R } {
  flushAll();
  const outer = ticks;
  ticks = [];
  engineState.compiling = true;
  let result: R, ticked: Counter[];
  try { result = step(...args); } finally { engineState.compiling = false; ticked = ticks; ticks = outer; }
  if (promiseLike(result)) throw new ConfigError("compile: the step returned a promise; recording is synchronous", { op: "compile", fix: "return tensors and await their data outside" });
  const starts = new Map<Counter, number>();
  for (const c of ticked) starts.set(c, (starts.get(c) ?? c.value) - 1);
  const outputs = flatten(result, isTensor).leaves.filter((t) => !isPlace(t) && (!hasNumbers(t) || liveNumbers.has(t) || inputs.includes(t)));
  const bound = bind([...new Set(outputs)], [...engineState.pending]);
  const before = bound.writes.map(({ store }) => store.current);
  const uniforms = scalarValues(bound.scalars);
  const live = bound.scalars.flatMap((t, at) => { const l = liveNumbers.get(t); return l ? [{ at, dtype: t.dtype, live: l, ahead: l.offset - (starts.get(l.counter) ?? l.offset) }] : []; });
  const done = execute(bound, leafValues(bound), uniforms);
  retire(bound, before);
  deliver(bound, done);
  // the recording keeps no numbers of this call but its constants
  const index = new Map(inputs.map((t, i) => [t, i]));
  const which = bound.leaves.map((t) => index.get(t) ?? null);
  const skeleton = mapTree(result, isTensor, (t: Tensor) => (isPlace(t) ? t : outputs.includes(t) ? new Slot([...new Set(outputs)].indexOf(t), t.shape, t.dtype) : t));
  const leaves = bound.leaves.map((t, i) => (which[i] === null ? t : placeholder));
  const shells = bound.outputs.map(() => placeholder), found = flatten(skeleton, isSlot).leaves, slots = bound.outputs.map((_, i) => found.find((s) => s.position === i)!);
  return { result, recording: { bound: { ...bound, leaves, outputs: shells, writes: bound.writes.map(({ store }) => ({ store, value: placeholder })) }, arguments: which, ticks: ticked, uniforms, live, result: skeleton, slots, device: bound.plan.device } };
}
const placeholder: Tensor = fromHost({ dtype: "f32", shape: [1], data: new Float32Array(1) });

/** Where an output of the plan stands in the step's result. */
class Slot {
  readonly position: number; readonly shape: readonly number[]; readonly dtype: Tensor["dtype"];
  constructor(position: number, shape: readonly number[], dtype: Tensor["dtype"]) { this.position = position; this.shape = shape; this.dtype = dtype; }
}
const isSlot = (x: unknown): x is Slot => x instanceof Slot;

function replay<R>(r: Recording, inputs: readonly Tensor[]): R {
  flushAll();
  const { bound } = r;
  const data = bound.leaves.map((t, i) => boundTo(r.arguments[i] === null ? t : inputs[r.arguments[i]], r.device));
  r.live.forEach(({ at, dtype, live: { counter, f }, ahead }) => { r.uniforms[at] = roundTo(dtype, f(counter.value + ahead)); });
  const done = execute(bound, data, r.uniforms.slice());   // a device may read them later
  for (const c of r.ticks) c.value++;
  const outputs = r.slots.map(({ shape, dtype }) => new Tensor(leafOp, [], null, shape, dtype));
  deliver(bound, done, outputs);
  return mapTree(r.result, (x): x is Slot | Tensor => isSlot(x) || isTensor(x), (x) => (isSlot(x) ? outputs[x.position] : x)) as R;
}

/** Structure of the arguments: paths, shapes, dtypes, aliasing; plain values of plain containers. */
function signature(args: readonly unknown[], inputs: readonly Tensor[]): string {
  const parts: string[] = [], seen = new Set<object>();
  const go = (x: unknown, plain: boolean): void => {
    if (isPlace(x)) parts.push(`S${x.id}`);
    else if (x instanceof Tensor) parts.push(`T${x.dtype}[${x.shape.join()}]#${inputs.indexOf(x)}`);
    else if (Array.isArray(x)) { parts.push("["); for (const y of x) go(y, plain); parts.push("]"); }
    else if (ArrayBuffer.isView(x)) throw new ConfigError("compile: a typed array among the arguments would be baked into the recording", { op: "compile", fix: "pass tensor(array), or a batch of tensors" });
    else if (typeof x === "object" && x !== null) {
      if (seen.has(x)) return;
      seen.add(x);
      const own = Object.getPrototypeOf(x) === Object.prototype;
      parts.push("{");
      for (const [k, v] of Object.entries(x)) { if (own || typeof v === "object") { parts.push(`${k}:`); go(v, own); } }
      parts.push("}");
    } else if (plain && typeof x !== "function") parts.push(`${typeof x}:${String(x)}`);
  };
  args.forEach((a) => { go(a, true); });
  return parts.join("");
}
