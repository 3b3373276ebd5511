/** A transform bound to a tree of stores: its step records the new parameters and states as assignments. */
import { ConfigError, type Counter, DTypeError, type HostArray, type MapLeaves, ShapeError, Store, Tensor, assign, counter, flatten, internal, live, sameShape, show, store } from "@adjoint/tensor";
import type { Rules } from "./groups.ts";
import { type TorchState, joinPath, loadState, saveState, torchState } from "./state.ts";
import type { Context, Leaves, State, Transform } from "./transform.ts";
import { squaredNorm } from "./transforms.ts";

/** A tree shaped like T whose tensors are gradients, null for leaves without one. */
export type GradientsOf<T> = MapLeaves<T, Tensor, Tensor | null>;

/** What a step says about itself. Both can be read after the step, or returned from a compiled one. */
export interface StepReport {
  /** ‖g‖₂ over all leaves, before clipping; shape [] */
  readonly gradNorm: Tensor;
  /** true where a gradient was not finite: no parameter and no state has changed; shape [], bool */
  readonly skipped: Tensor;
}

/** A recipe for training any tree: `adamw({ learningRate: 1e-3 }).for(model.adapter)`. */
export interface Optimizer {
  readonly name: string;
  readonly transform: Transform;
  for<T>(tree: T): BoundOptimizer<T>;
}

/** Makes an optimizer of any transform; `rules` says what `learningRate` reports and which groups must match. */
export function optimizerOf(name: string, transform: Transform, rules: Rules | null = null, hyper: Readonly<Record<string, unknown>> = {}): Optimizer {
  return { name, transform, for: (tree) => new BoundOptimizer(tree, name, transform, rules, hyper) };
}

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
/** Larger sums of squares (and NaN) mean that the step is skipped. */
const largest = (t: Tensor): number => (t.dtype === "f64" ? Number.MAX_VALUE : 3.4028234663852886e38);

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
  readonly #hyper: Readonly<Record<string, unknown>>;
  /** paths of the tree that are not trained here: plain tensors, second places of a store */
  readonly #others: ReadonlySet<string>;

  constructor(tree: T, name: string, transform: Transform, rules: Rules | null, hyper: Readonly<Record<string, unknown>>) {
    this.name = name; this.#transform = transform; this.#rules = rules; this.#hyper = hyper;
    const { paths, leaves } = flatten(tree, isTensor), params: Record<string, Store> = {}, others = new Set<string>(), seen = new Set<Store>();
    leaves.forEach((t, i) => {
      if (!(t instanceof Store) || seen.has(t)) { others.add(paths[i]); return; }
      if (t.dtype !== "f32" && t.dtype !== "f64") throw new ConfigError(`${name}: ${paths[i] || "the parameter"} is ${t.dtype}: its updates would be lost in rounding`, { op: name, key: paths[i], value: t.dtype, fix: "train f32 parameters; a frozen base may stay in half precision" });
      seen.add(t);
      params[paths[i]] = t;
    });
    if (seen.size === 0) throw new ConfigError(`${name}: the tree holds no store, hence nothing to train`, { op: name, fix: "make its parameters stores: store(tensor)" });
    rules?.check(Object.keys(params));
    this.params = params;
    this.#others = others;
    this.counter = counter(0, "step");
    this.updates = Object.fromEntries(Object.keys(params).map((path) => [path, counter(0, joinPath("step", path))]));
    this.states = Object.fromEntries(Object.entries(transform.init(params)).map(([key, leaves_]) =>
      [key, Object.fromEntries(Object.entries(leaves_).map(([path, x]) => [path, store(x, joinPath(key, path))]))]));
  }

  /** The learning rate of the step that was taken last (of the first, before it), outside of groups. */
  get learningRate(): number {
    if (!this.#rules) throw new ConfigError(`${this.name}: this chain has no single learning rate`, { op: this.name, key: "learningRate", fix: "ask the schedule that was given to scaleByLearningRate" });
    return this.#rules.rate(Math.max(0, this.counter.value - 1));
  }

  /**
   * Records one step: p ← p - u for every leaf with a gradient; a leaf whose gradient is null keeps parameter and state.
   * If any gradient is NaN or infinite nothing changes but the counters. Inside `compile` all of it is part of the plan.
   * Errors: ConfigError for gradients of another tree or none at all; ShapeError and DTypeError naming the leaf.
   */
  step(gradients: GradientsOf<T>): StepReport {
    const given = this.#match(gradients), paths = Object.keys(given);
    const total = internal(() => squaredNorm(given));
    const [stores, values] = internal(() => this.#record(given, total));
    assign(stores, values);
    this.counter.tick();
    for (const path of paths) this.updates[path].tick();
    return { gradNorm: total.sqrt().named("gradNorm"), skipped: total.le(largest(total)).not().named("skipped") };   // the user's own: a flush brings them along
  }

  #record(given: Leaves, total: Tensor): [Store[], Tensor[]] {
    const kept = new WeakSet<Tensor>(), shared = new Map<unknown, Tensor>(), sound = total.le(largest(total));
    const keep = (next: Tensor, previous: Tensor): Tensor => {
      const t = sound.where(next, previous);
      kept.add(t);
      return t;
    };
    const context: Context = {
      keep,
      ofStep: (f, dtype) => {
        const had = shared.get(f);
        if (had?.dtype === dtype) return had;
        const t = live(this.counter, f, dtype);
        shared.set(f, t);
        return t;
      },
      ofUpdates: (path, f, dtype) => live(this.updates[path], (n) => f(n + 1), dtype),
    };
    const paths = Object.keys(given), params: Leaves = Object.fromEntries(paths.map((path) => [path, this.params[path]]));
    const state: State = Object.fromEntries(Object.entries(this.states).map(([name, leaves]) => [name, leaves]));
    const done = this.#transform.update(given, state, params, context), after = done.params ?? params;
    const stores: Store[] = [], values: Tensor[] = [];
    for (const path of paths) {
      stores.push(this.params[path]);
      values.push(keep(after[path].sub(done.updates[path]), this.params[path]));
      for (const [name, leaves] of Object.entries(this.states)) {
        const next = done.state[name]?.[path];
        if (!next || next === leaves[path]) continue;
        stores.push(leaves[path]);
        values.push(kept.has(next) ? next : keep(next, leaves[path]));
      }
    }
    return [stores, values];
  }

  #match(gradients: GradientsOf<T>): Leaves {
    const { paths, leaves } = flatten(gradients, isTensor), given: Record<string, Tensor> = {};
    leaves.forEach((g, i) => {
      const path = paths[i], p = this.params[path], op = `${this.name}.step`;
      if (!p) {
        if (this.#others.has(path)) return;
        throw new ConfigError(`${op}: the gradients hold ${path}, which is no parameter of this optimizer`, { op, key: path, fix: "give gradients of the tree that the optimizer was made for" });
      }
      if (!sameShape(p.shape, g.shape)) throw new ShapeError(`${op}: the gradient of ${path} has shape ${show(g.shape)}, the parameter ${show(p.shape)}`, { op, key: path, shapes: [p.shape, g.shape] });
      if (p.dtype !== g.dtype) throw new DTypeError(`${op}: the gradient of ${path} is ${g.dtype}, the parameter ${p.dtype}`, { op, key: path, fix: `cast the gradient: g.cast("${p.dtype}")` });
      given[path] = g;
    });
    if (Object.keys(given).length === 0) throw new ConfigError(`${this.name}.step: no parameter has a gradient`, { op: `${this.name}.step`, fix: "check that the loss uses the tensors of the tree" });
    return given;
  }

  /** Snapshot of everything but the parameters: `<state>.<path>`, `step.<path>` (updates of a leaf) and `step`. Take it between steps. */
  state(): Promise<Record<string, HostArray>> { return saveState(this); }

  /** Takes a snapshot up again. Strict. Errors: FormatError naming missing and unexpected tensors, shapes and dtypes; then nothing has changed. */
  load(state: Readonly<Record<string, HostArray>>): void { loadState(this, state); }

  /** The snapshot in the layout of torch's `optimizer.state_dict()`, with the parameters' names beside their numbers. */
  stateDict(): Promise<TorchState> { return torchState(this, this.#rules, this.#hyper); }
}
