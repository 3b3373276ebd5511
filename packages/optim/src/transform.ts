/** Transforms: small functions from gradients to updates, with a state that the optimizer keeps; a chain is one of them. */
import { ConfigError, type DType, type Tensor, fromHost, hostArray } from "@adjoint/tensor";

/** Tensors by path. A path that is absent takes no part in this step. */
export type Leaves = Readonly<Record<string, Tensor>>;
/** What a transform remembers: for each name (torch's, such as `exp_avg`) tensors by path. */
export type State = Readonly<Record<string, Leaves>>;

/** What a transform may ask about the step. */
export interface Context {
  /** f(steps finished before this one), a number that is data */
  ofStep(f: (t: number) => number, dtype: DType): Tensor;
  /** f(updates of this leaf, this one included), a number that is data */
  ofUpdates(path: string, f: (t: number) => number, dtype: DType): Tensor;
  /** `next`, or `previous` if the step is skipped. Updates computed from the kept value share one kernel with it. */
  keep(next: Tensor, previous: Tensor): Tensor;
}

/**
 * g ↦ u with memory: `init` gives the state before the first step, `update` the updates and the state after it.
 * The optimizer ends with p ← p - u; `params` in the result replaces p (decoupled decay).
 */
export interface Transform<S extends State = State> {
  init(params: Leaves): S;
  update(updates: Leaves, state: S, params: Leaves, context: Context): { readonly updates: Leaves; readonly state: S; readonly params?: Leaves };
}

/** The same paths with other tensors. */
export function mapLeaves(leaves: Leaves, f: (x: Tensor, path: string) => Tensor): Leaves {
  return Object.fromEntries(Object.entries(leaves).map(([path, x]) => [path, f(x, path)]));
}
/** Zeros shaped like the parameters. */
export const zerosLike = (params: Leaves): Leaves =>
  mapLeaves(params, ({ dtype, shape, size }) => fromHost({ dtype, shape, data: hostArray(dtype, size) }));

const none: State = {};
/** A transform without memory. */
export const stateless = (update: (updates: Leaves, params: Leaves, context: Context) => Leaves): Transform =>
  ({ init: () => none, update: (updates, state, params, context) => ({ updates: update(updates, params, context), state }) });

/** One transform after the other. Errors: ConfigError where two of them remember the same name. */
export function chain(...links: readonly Transform[]): Transform {
  return {
    init(params) {
      const states = links.map((link) => link.init(params)), names = states.flatMap((s) => Object.keys(s));
      const twice = names.find((n, i) => names.indexOf(n) !== i);
      if (twice !== undefined) throw new ConfigError(`chain: two transforms remember ${twice}`, { op: "chain", key: twice, fix: "use each such transform once" });
      return Object.assign({}, ...states) as State;
    },
    update(gradients, state, start, context) {
      let updates = gradients, params = start, next: State = state;
      for (const link of links) {
        const done = link.update(updates, state, params, context);
        updates = done.updates;
        params = done.params ?? params;
        next = { ...next, ...changed(done.state, state) };
      }
      return { updates, state: next, params };
    },
  };
}
/** The parts that a link has written. */
const changed = (after: State, before: State): State => Object.fromEntries(Object.entries(after).filter(([name, leaves]) => leaves !== before[name]));
