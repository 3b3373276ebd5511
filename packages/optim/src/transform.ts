/** Transforms: small functions from gradients to updates, with a state that the optimizer keeps; a chain is one of them. */
import { ConfigError, type DType, type HostArray, type Tensor, fromHost, hostArray } from "@adjoint/tensor";

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
  /** `next`, or `previous` (in next's shape) if the step is skipped. Updates computed from the kept value share one kernel with it. */
  keep(next: Tensor, previous: Tensor): Tensor;
  /** every tensor of the tree as it was before the step, those without a gradient and those that never train included */
  readonly leaves: Leaves;
}

/**
 * g ↦ u with memory: `init` gives the state before the first step, `update` the updates and the state after it.
 * The optimizer ends with p ← p - u; `params` in the result replaces p (decoupled decay). A leaf without a u does not change. Updates, parameters and kept values may
 * leave in another shape of as many numbers.
 */
export interface Transform<S extends State = State> {
  init(params: Leaves): S;
  update(updates: Leaves, state: S, params: Leaves, context: Context): { readonly updates: Leaves; readonly state: S; readonly params?: Leaves };
  /** numbers that torch keeps beside the state and that follow from the updates t of a leaf, by torch's name */
  readonly derived?: Readonly<Record<string, (t: number) => number>>;
  /** arrays that bitsandbytes keeps beside a state although they are the same for all leaves: by name, written where a leaf has the state `beside` */
  readonly constants?: Readonly<Record<string, { readonly beside: string; readonly value: HostArray }>>;
  /** torch makes these states before the first update, and cannot do without them */
  readonly fromStart?: boolean;
  /** leaves whose gradients it never looks at: the optimizer leaves them out of norm and clipping, and nobody need compute them */
  readonly ignores?: (path: string) => boolean;
}

/** The same paths with other tensors. */
export function mapLeaves(leaves: Leaves, f: (x: Tensor, path: string) => Tensor): Leaves {
  return Object.fromEntries(Object.entries(leaves).map(([path, x]) => [path, f(x, path)]));
}
/** The leaves that satisfy a predicate. */
export const filterLeaves = (leaves: Leaves, test: (path: string, x: Tensor) => boolean): Leaves => Object.fromEntries(Object.entries(leaves).filter(([path, x]) => test(path, x)));
/** A tensor of one number that the host holds. */
export const filled = (shape: readonly number[], dtype: DType, value = 0): Tensor =>
  fromHost({ dtype, shape: [...shape], data: hostArray(dtype, shape.reduce((a, b) => a * b, 1)).fill(value) });
/** Zeros shaped like the parameters. */
export const zerosLike = (params: Leaves): Leaves => mapLeaves(params, ({ dtype, shape }) => filled(shape, dtype));

const none: State = {};
/** A transform without memory. */
export const stateless = (update: (updates: Leaves, params: Leaves, context: Context) => Leaves): Transform =>
  ({ init: () => none, update: (updates, state, params, context) => ({ updates: update(updates, params, context), state }) });

/** One transform after the other. Errors: ConfigError where two of them remember the same name. */
export function chain(...links: readonly Transform[]): Transform {
  return {
    ...keptBeside(links),
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
/** What torch's layout has besides the states of several transforms. */
const keptBeside = (links: readonly Transform[]): Required<Pick<Transform, "derived" | "constants" | "fromStart">> => ({
  derived: Object.fromEntries(links.flatMap((l) => Object.entries(l.derived ?? {}))), constants: Object.fromEntries(links.flatMap((l) => Object.entries(l.constants ?? {}))), fromStart: links.some((l) => l.fromStart === true),
});

/** Leaves that satisfy the test go through `yes`, all others through `no` (by default, nothing happens to them there); both may remember the same names. */
export function branch(test: (path: string, p: Tensor) => boolean, yes: Transform, no: Transform = stateless((updates) => updates)): Transform {
  const is = (path: string, params: Leaves): boolean => test(path, params[path]);
  return {
    ...keptBeside([yes, no]),
    init(params) {
      const a = yes.init(filterLeaves(params, test)), b = no.init(filterLeaves(params, (path, p) => !test(path, p)));
      return Object.fromEntries([...new Set([...Object.keys(a), ...Object.keys(b)])].map((name) => [name, { ...a[name], ...b[name] }]));
    },
    update(updates, state, params, context) {
      const a = yes.update(filterLeaves(updates, (path) => is(path, params)), state, params, context);
      const b = no.update(filterLeaves(updates, (path) => !is(path, params)), state, params, context);
      const next = Object.fromEntries(Object.keys(state).map((name) => {
        const [x, y] = [a.state[name], b.state[name]].map((leaves) => (leaves === state[name] ? {} : leaves));
        return [name, { ...state[name], ...x, ...y }];
      }));
      return { updates: { ...a.updates, ...b.updates }, state: next, params: mapLeaves(params, (p, path) => (is(path, params) ? a : b).params?.[path] ?? p) };
    },
  };
}
