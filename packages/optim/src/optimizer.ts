/** A transform bound to a tree of stores: its step records the new parameters and states as assignments. */
import { ConfigError, type Counter, DTypeError, type HostArray, type MapLeaves, ShapeError, Store, Tensor, assign, bitAnd, counter, flatten, internal, live, sameShape, show, store } from "@adjoint/tensor";
import { squaredNorm } from "./clip.ts";
import type { Rules } from "./groups.ts";
import { isHalfType, roundByChance } from "./rounding.ts";
import { joinPath, loadState, saveState } from "./state.ts";
import { type Layout, type LoadOptions, type TorchState, loadTorchState, torchState } from "./torch-state.ts";
import { type Context, type Leaves, type State, type Transform, filled } from "./transform.ts";

/** A tree shaped like T whose tensors are gradients, null for leaves without one. */
export type GradientsOf<T> = MapLeaves<T, Tensor, Tensor | null>;

/** What a step says about itself. Both can be read after the step, or returned from a compiled one. */
export interface StepReport {
  /** ‖g‖₂ over all leaves, before clipping; shape [] */
  readonly gradNorm: Tensor;
  /** true where a gradient was not finite: no parameter and no state has changed (who reads it says so with `uncount`); shape [], bool */
  readonly skipped: Tensor;
}

/** How half-precision parameters and bad gradients are treated. */
export interface Policy {
  readonly masterWeights: boolean;
  readonly stochasticRounding: boolean;
  readonly seed: number;
  readonly nonFinite: "skip" | "stop";
}
/** Further options as torch writes them in a group; a function of the step where one of them is. */
export type Hyper = Readonly<Record<string, unknown>> | ((t: number) => Readonly<Record<string, unknown>>);
const plain: Policy = { masterWeights: false, stochasticRounding: false, seed: 0, nonFinite: "skip" };

/** A recipe for training any tree: `adamw({ learningRate: 1e-3 }).for(model.adapter)`. */
export interface Optimizer {
  readonly name: string;
  readonly transform: Transform;
  readonly policy: Policy;
  for<T>(tree: T): BoundOptimizer<T>;
}

/** Makes an optimizer of any transform; `rules` says what `learningRate` reports and which groups must match. */
export function optimizerOf(name: string, transform: Transform, rules: Rules | null = null, hyper: Hyper = {}, policy: Policy = plain): Optimizer {
  return { name, transform, policy, for: (tree) => new BoundOptimizer(tree, name, transform, rules, hyper, policy) };
}

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
/** Larger sums of squares (and NaN) mean that the step is skipped. */
const largest = (t: Tensor): number => (t.dtype === "f64" ? Number.MAX_VALUE : 3.4028234663852886e38);

/** The stores of a tree by path (one that sits in two places has its first path), and the paths of everything else. */
export function trained(tree: unknown): { readonly params: Readonly<Record<string, Store>>; readonly others: Leaves } {
  const { paths, leaves } = flatten(tree, isTensor), params: Record<string, Store> = {}, others: Record<string, Tensor> = {}, seen = new Set<Store>();
  leaves.forEach((t, i) => {
    if (!(t instanceof Store) || seen.has(t)) { others[paths[i]] = t; return; }
    seen.add(t);
    params[paths[i]] = t;
  });
  return { params, others };
}
/** What states are shaped like: the parameters, in f32 where they are half. */
const asStates = (params: Readonly<Record<string, Store>>): Leaves =>
  Object.fromEntries(Object.entries(params).map(([path, p]) => [path, isHalfType(p.dtype) ? filled(p.shape, "f32") : p]));

/** All states before the first step: the transform's, f32 copies of half parameters (`master`), the step at which it stopped (`halted`). */
export function statesOf(transform: Transform, policy: Policy, params: Readonly<Record<string, Store>>): State {
  const masters = policy.masterWeights ? Object.entries(asStates(params)).filter(([path]) => isHalfType(params[path].dtype)) : [];
  return { ...transform.init(asStates(params)), ...(masters.length ? { master: Object.fromEntries(masters) } : {}), ...(policy.nonFinite === "stop" ? { halted: { "": filled([], "f32") } } : {}) };
}

/** An optimizer, the stores it trains, and its states. */
export class BoundOptimizer<T> {
  readonly name: string;
  /** steps taken (skipped ones too), for schedules and for the step word of random keys */
  readonly counter: Counter;
  /** parameters by path; a store that sits in two places has its first path */
  readonly params: Readonly<Record<string, Store>>;
  /** updates that each leaf has had */
  readonly updates: Readonly<Record<string, Counter>>;
  /** states by name and path */
  readonly states: Readonly<Record<string, Readonly<Record<string, Store>>>>;
  readonly #transform: Transform;
  readonly #rules: Rules | null;
  readonly #hyper: Hyper;
  readonly #policy: Policy;
  /** leaves of the tree that are not trained here: plain tensors, second places of a store */
  readonly #others: Leaves;
  /** leaves of the step that was recorded last */
  #moved: readonly string[] = [];
  /** the step that `uncount` was told of last */
  #uncounted = 0;

  constructor(tree: T, name: string, transform: Transform, rules: Rules | null, hyper: Hyper, policy: Policy) {
    this.name = name; this.#transform = transform; this.#rules = rules; this.#hyper = hyper; this.#policy = policy;
    const { params, others } = trained(tree), cured = policy.masterWeights || policy.stochasticRounding;
    for (const [path, t] of Object.entries(params)) {
      if (t.dtype === "f32" || t.dtype === "f64" || (cured && isHalfType(t.dtype))) continue;
      const half = isHalfType(t.dtype);
      throw new ConfigError(`${name}: ${path || "the parameter"} is ${t.dtype}: its updates would be lost in rounding`, { op: name, key: path, value: t.dtype, fix: half ? "train f32 parameters (a frozen base may stay in half precision), or set masterWeights or stochasticRounding" : "train f32 parameters" });
    }
    if (Object.keys(params).length === 0) throw new ConfigError(`${name}: the tree holds no store, hence nothing to train`, { op: name, fix: "make its parameters stores: store(tensor)" });
    rules?.check(Object.keys(params));
    this.params = params;
    this.#others = others;
    this.counter = counter(0, "step");
    this.updates = Object.fromEntries(Object.keys(params).map((path) => [path, counter(0, joinPath("step", path))]));
    this.states = Object.fromEntries(Object.entries(statesOf(transform, policy, params)).map(([key, leaves]) =>
      [key, Object.fromEntries(Object.entries(leaves).map(([path, x]) => [path, store(x, joinPath(key, path)).usedAs("optimizer")]))]));
    for (const p of Object.values(params)) if (p.use === null) p.usedAs("parameter");
  }

  /** Whether a leaf's gradient is never looked at (the frozen factors of LoRA-FA): it may be null, and what computes it is left out of the step. */
  ignores(path: string): boolean { return this.#transform.ignores?.(path) ?? false; }

  /** The learning rate of the step that was taken last (of the first, before it), outside of groups. */
  get learningRate(): number {
    if (!this.#rules) throw new ConfigError(`${this.name}: this chain has no single learning rate`, { op: this.name, key: "learningRate", fix: "ask the schedule that was given to scaleByLearningRate" });
    return this.#rules.rate(Math.max(0, this.counter.value - 1));
  }

  /**
   * Records one step: p ← p - u for every leaf with a gradient; a leaf whose gradient is null keeps parameter and state.
   * If any gradient is NaN or infinite nothing changes but the counters, for the host does not wait to hear of it (`uncount`). Inside `compile` all of it is part of the plan.
   * Errors: ConfigError for gradients of another tree or none at all; ShapeError and DTypeError naming the leaf.
   */
  step(gradients: GradientsOf<T>): StepReport {
    const given = this.#match(gradients, "step"), total = internal(() => squaredNorm(given));
    const { stores, values, sound, moved } = internal(() => this.#record(this.#transform, given, total, true));
    assign(stores, values);
    this.counter.tick();
    for (const path of moved) this.updates[path].tick();
    this.#moved = moved;
    return { gradNorm: total.sqrt().named("gradNorm"), skipped: sound.not().named("skipped") };   // the user's own: a flush brings them along
  }

  /**
   * Takes the last step's updates back from the leaves' counts, for whoever has read that it was `skipped`: then t in 1 - βᵗ counts what has changed something, as under torch's
   * GradScaler, which leaves out a whole step. `counter`, and with it a schedule, goes on. Call it before the next step; a second time it does nothing.
   * @example if (await optimizer.step(g).skipped.item()) optimizer.uncount();
   */
  uncount(): void {
    if (this.counter.value === this.#uncounted) return;
    this.#uncounted = this.counter.value;
    for (const path of this.#moved) if (this.updates[path].value > 0) this.updates[path].value--;
  }

  /**
   * Records a change of states alone: the transform sees `samples` in the place of gradients and writes states that this optimizer
   * has (Sophia's hessian). Samples that are not finite change nothing; no counter ticks.
   */
  observe(transform: Transform, samples: GradientsOf<T>): void {
    const given = this.#match(samples, "observe"), name = Object.keys(transform.init(asStates(this.params))).find((n) => !(n in this.states));
    if (name !== undefined) throw new ConfigError(`${this.name}.observe: this optimizer does not remember ${name}`, { op: `${this.name}.observe`, key: name, fix: `it remembers ${Object.keys(this.states).join(", ") || "nothing"}` });
    const { stores, values } = internal(() => this.#record(transform, given, squaredNorm(given), false));
    assign(stores, values);
  }

  /**
   * With nonFinite "stop": throws if a step has met a gradient that was not finite, and says which. Reads one number, so a loop asks
   * now and then; meanwhile nothing has changed.
   */
  async check(): Promise<void> {
    const at = this.states.halted === undefined ? 0 : (await this.states.halted[""].data())[0];
    if (at > 0) throw new ConfigError(`${this.name}: the gradients of step ${at} were not finite; no parameter has changed since`, { op: this.name, key: "nonFinite", value: at, fix: "lower the learning rate, clip gradients, or look at that batch (explainNaN)" });
  }

  #record(transform: Transform, given: Leaves, total: Tensor, moving: boolean): { stores: Store[]; values: Tensor[]; sound: Tensor; moved: string[] } {
    const kept = new WeakSet<Tensor>(), shared = new Map<unknown, Tensor>(), stores: Store[] = [], values: Tensor[] = [], halted = this.states.halted?.[""];
    const finite = total.le(largest(total)), sound = halted === undefined ? finite : bitAnd(finite, halted.eq(0));
    const keep = (next: Tensor, previous: Tensor): Tensor => {
      const t = sound.where(next, previous.reshape(next.shape));
      kept.add(t);
      return t;
    };
    const set = (s: Store, value: Tensor): void => { stores.push(s); values.push(value.reshape(s.shape)); };
    const context: Context = {
      keep, leaves: { ...this.#others, ...this.params },
      ofStep: (f, dtype) => {
        const had = shared.get(f);
        if (had?.dtype === dtype) return had;
        const t = live(this.counter, f, dtype);
        shared.set(f, t);
        return t;
      },
      ofUpdates: (path, f, dtype) => live(this.updates[path], (n) => f(n + 1), dtype),
    };
    const paths = Object.keys(given), params: Leaves = Object.fromEntries(paths.map((path) => [path, this.#wide(path)]));
    const state: State = Object.fromEntries(Object.entries(this.states).map(([name, leaves]) => [name, leaves]));
    const done = transform.update(given, state, params, context), after = done.params ?? params, moved = paths.filter((path) => path in done.updates);
    if (moving) for (const path of moved) this.#move(path, keep(after[path].sub(done.updates[path]), params[path]), set, sound);
    for (const [name, leaves] of Object.entries(this.states)) for (const [path, s] of Object.entries(leaves)) {
      const next = done.state[name]?.[path];
      if (next && next !== s) set(s, kept.has(next) ? next : keep(next, s));
    }
    if (halted !== undefined && moving) set(halted, sound.where(halted, halted.gt(0).where(halted, live(this.counter, (t) => t + 1))));
    return { stores, values, sound, moved };
  }

  /** A parameter in the precision in which it trains. A master that has never moved is the parameter itself. */
  #wide(path: string): Tensor {
    const p = this.params[path], master = this.states.master?.[path];
    if (!isHalfType(p.dtype)) return p;
    return master === undefined ? p.cast("f32") : live(this.updates[path], (n) => (n === 0 ? 1 : 0)).gt(0).where(p.cast("f32"), master);
  }
  #move(path: string, next: Tensor, set: (s: Store, value: Tensor) => void, sound: Tensor): void {
    const p = this.params[path], master = this.states.master?.[path];
    if (!isHalfType(p.dtype)) { set(p, next); return; }
    if (master !== undefined) set(master, next);
    const key = { seed: this.#policy.seed, stream: `rounding/${path}`, step: live(this.counter, (t) => t, "u32") }, own = next.reshape(p.shape);
    set(p, sound.where(master === undefined ? roundByChance(own, p.dtype, key) : own.cast(p.dtype), p));
  }

  #match(gradients: GradientsOf<T>, what: string): Leaves {
    const { paths, leaves } = flatten(gradients, isTensor), given: Record<string, Tensor> = {}, op = `${this.name}.${what}`;
    leaves.forEach((g, i) => {
      const path = paths[i], p = this.params[path];
      if (!p) {
        if (path in this.#others) return;
        throw new ConfigError(`${op}: the gradients hold ${path}, which is no parameter of this optimizer`, { op, key: path, fix: "give gradients of the tree that the optimizer was made for" });
      }
      if (!sameShape(p.shape, g.shape)) throw new ShapeError(`${op}: the gradient of ${path} has shape ${show(g.shape)}, the parameter ${show(p.shape)}`, { op, key: path, shapes: [p.shape, g.shape] });
      const wide = isHalfType(p.dtype) ? "f32" : p.dtype;
      if (g.dtype !== p.dtype && g.dtype !== wide) throw new DTypeError(`${op}: the gradient of ${path} is ${g.dtype}, the parameter ${p.dtype}`, { op, key: path, fix: `cast the gradient: g.cast("${wide}")` });
      if (!this.ignores(path)) given[path] = g.cast(wide);
    });
    if (Object.keys(given).length === 0) throw new ConfigError(`${op}: no parameter has a gradient`, { op, fix: "check that the loss uses the tensors of the tree" });
    return given;
  }

  /** Snapshot of everything but the parameters: `<state>.<path>`, `step.<path>` (updates of a leaf) and `step`. Take it between steps. */
  state(): Promise<Record<string, HostArray>> { return saveState(this); }

  /** Takes a snapshot up again. Strict. Errors: FormatError naming missing and unexpected tensors, shapes and dtypes; then nothing has changed. */
  load(state: Readonly<Record<string, HostArray>>): void { loadState(this, state); this.#uncounted = 0; }

  /** The snapshot in the layout of torch's `optimizer.state_dict()`, with the parameters' names beside their numbers; torch and bitsandbytes load it as it is. */
  stateDict(): Promise<TorchState> { return torchState(this, this.#layout); }

  /**
   * Takes up a state in torch's layout: by names where the groups have them (`param_names`), else in the order of this tree, or of its groups where there are
   * several; rates and other options stay this optimizer's own. `step` says how many steps have been taken where the state does not (torch's SGD).
   * Errors: FormatError for another set of parameters, other states or shapes, or a rate that depends on a step which nobody has counted; then nothing has changed.
   */
  loadStateDict(state: TorchState, options: LoadOptions = {}): void { loadTorchState(this, state, this.#layout, options); this.#uncounted = 0; }

  get #layout(): Layout {
    const { derived, constants, fromStart } = this.#transform;
    return { rules: this.#rules, hyper: this.#hyper, ...(derived ? { derived } : {}), ...(constants ? { constants } : {}), ...(fromStart === undefined ? {} : { fromStart }) };
  }
}
