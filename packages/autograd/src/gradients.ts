/** Reverse mode: walk the recorded graph consumers first; each op knows its own line of the chain rule. */
import { ConfigError, DTypeError, ShapeError, type MapLeaves, type Op, type ReadAttrs, Store, Tensor, current, flatten, internal, isFloat, meaningOf, ones, readOp, show, unflatten } from "@adjoint/tensor";

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
/** A tree shaped like T whose tensors are gradients; null where the loss does not reach a leaf. */
export type Gradients<T> = MapLeaves<T, Tensor, Tensor | null>;

const follow = (t: Tensor): Tensor => { let x = t; while (x.alias) x = x.alias; return x; };
/** A composite without its own gradient is differentiated through its definition. */
const parents = (t: Tensor): readonly Tensor[] => (t.op.kind === "composite" && !t.op.vjp ? [meaningOf(t)] : t.inputs).map(follow);

/** Consumers before producers, down to `stop`. */
function consumersFirst(roots: readonly Tensor[], stop: ReadonlySet<Tensor>): Tensor[] {
  const order: Tensor[] = [], state = new Map<Tensor, boolean>(), stack = [...roots];
  while (stack.length) {
    const t = stack[stack.length - 1], s = state.get(t);
    if (s !== undefined) { stack.pop(); if (!s) { state.set(t, true); order.push(t); } continue; }
    state.set(t, false);
    if (!stop.has(t)) for (const x of parents(t)) if (!state.has(x)) stack.push(x);
  }
  return order.reverse();
}

/** Cotangents of the leaves given cotangents of the roots; leaves that are not reached are absent. */
export function pullback(roots: readonly (readonly [Tensor, Tensor])[], leaves: readonly Tensor[]): Map<Tensor, Tensor> {
  // a store stands for every read of it in the graph
  const stores = new Map<Store, Tensor>(), target = new Map<Tensor, Tensor>();
  for (const x of leaves) {
    if (x instanceof Store) { stores.set(x, x); target.set(follow(x.current), x); } else target.set(follow(current(x)), x);
  }
  const starts = roots.map(([y]) => follow(y)), stop = new Set(target.keys());
  const order = consumersFirst(starts, stop);
  for (const t of order) if (t.op === readOp && t.attrs) { const s = (t.attrs as ReadAttrs).store; if (stores.has(s)) target.set(t, s); }
  const needs = new Set<Tensor>();
  for (let i = order.length - 1; i >= 0; i--) {
    const t = order[i];
    if (target.has(t) || (!stop.has(t) && parents(t).some((x) => needs.has(x)))) needs.add(t);
  }
  const grads = new Map<Tensor, Tensor>(), add = (t: Tensor, g: Tensor, from?: Tensor): void => {
    if (g.shape.length !== t.shape.length || g.shape.some((d, i) => d !== t.shape[i])) throw misshapen(t, g, from);
    const old = grads.get(t);
    grads.set(t, old ? old.add(g) : g);
  };
  return internal(() => {
    roots.forEach(([y, g]) => { if (needs.has(follow(y))) add(follow(y), g); });
    const out = new Map<Tensor, Tensor>();
    for (const t of order) {
      const g = grads.get(t);
      if (!g || !needs.has(t)) continue;
      const leaf = target.get(t);
      if (leaf) { const old = out.get(leaf); out.set(leaf, old ? old.add(g) : g); if (stop.has(t)) continue; }
      grads.delete(t);
      if (t.inputs.length === 0 && t.computed) throw new ConfigError(`the gradient runs through a value that was already computed (${t.op.name} ${show(t.shape)})`, { op: "gradients", fix: "take the gradient before reading, or use valueAndGrad" });
      if (t.op.kind === "composite" && !t.op.vjp) { add(follow(meaningOf(t)), g); continue; }
      const xs = t.inputs.map(follow);
      if (!xs.some((x) => needs.has(x))) continue;
      if (!t.op.vjp) throw new ConfigError(`${t.op.name} has no gradient`, { op: t.op.name, fix: "wrap its input in stopGradient" });
      vjpOf(t.op, g, t).forEach((d, i) => { if (d && needs.has(xs[i])) add(xs[i], d, t); });
    }
    return out;
  });
}
/** A cotangent that does not have its value's shape: of a caller of `vjp`, or from the gradient of an op, which is named. */
const misshapen = (t: Tensor, g: Tensor, from: Tensor | undefined): ShapeError => (from === undefined
  ? new ShapeError(`gradient of ${show(g.shape)} for a value of ${show(t.shape)} (${t.op.name})`, { op: t.op.name, shapes: [g.shape, t.shape] })
  : new ShapeError(`${from.op.name}: its vjp gives an input of ${show(t.shape)}${t.name === "" ? "" : ` (${t.name})`} a gradient of ${show(g.shape)}`, { op: from.op.name, shapes: [g.shape, t.shape], fix: "a gradient has the shape of its input: multiply by g element by element, and sum only over what was broadcast" }));
const vjpOf = (op: Op, g: Tensor, y: Tensor): readonly (Tensor | null)[] => op.vjp!(g, y);

/**
 * d loss / d leaf for every tensor of a tree. `loss` has one element; a leaf that it does not reach gets null.
 * Errors: a loss that reaches no leaf at all; a loss that is not a float.
 * @example const g = gradients(loss, model.adapter); optimizer.step(g);
 */
export function gradients<T>(loss: Tensor, tree: T): Gradients<T> {
  if (!isTensor(loss)) throw new ConfigError("gradients: the first argument is no tensor", { op: "gradients", key: "loss", fix: "gradients(loss, tree): the loss first, then what it is differentiated by" });
  if (loss.size !== 1) throw new ShapeError(`gradients: the loss has shape ${show(loss.shape)}; it must be one number`, { op: "gradients", shapes: [loss.shape], fix: "reduce it: loss.sum() or loss.mean()" });
  if (!isFloat(loss.dtype)) throw new DTypeError(`gradients: a ${loss.dtype} loss has no gradient`, { op: "gradients" });
  if (loss.computed && !loss.alias) throw new ConfigError("gradients: the loss has been computed and let its recipe go", { op: "gradients", fix: "take the gradient before reading, or use valueAndGrad" });
  const { leaves } = flatten(tree, isTensor);
  const found = pullback([[loss, ones(loss.shape, loss.dtype)]], leaves);
  if (found.size === 0) throw new ConfigError("no trainable parameter received a gradient", { op: "gradients", fix: "check that the loss uses the tensors of the tree, and that stopGradient does not cut them off" });
  return unflatten(tree, isTensor, leaves.map((x) => found.get(x) ?? null));
}

/** The value and the gradient of f with respect to its first argument (a tree). */
export const valueAndGrad = <T, A extends readonly unknown[]>(f: (tree: T, ...rest: A) => Tensor) => (tree: T, ...rest: A): [Tensor, Gradients<T>] => {
  const loss = f(tree, ...rest);
  return [loss, gradients(loss, tree)];
};
/** The gradient of f with respect to its first argument (a tree). */
export const grad = <T, A extends readonly unknown[]>(f: (tree: T, ...rest: A) => Tensor) => (tree: T, ...rest: A): Gradients<T> => gradients(f(tree, ...rest), tree);

/** y = f(...xs), and the function that takes a cotangent of y to cotangents of xs (null where y does not depend on x). */
export function vjp(f: (...xs: Tensor[]) => Tensor, ...xs: Tensor[]): [Tensor, (g: Tensor) => (Tensor | null)[]] {
  const y = f(...xs);
  return [y, (g) => { const found = pullback([[y, g]], xs); return xs.map((x) => found.get(x) ?? null); }];
}
/** The tangent of f at xs along us, by two reverse passes (J u = d⟨vjp(v), u⟩/dv). */
export function jvp(f: (...xs: Tensor[]) => Tensor, xs: readonly Tensor[], us: readonly Tensor[]): [Tensor, Tensor] {
  const y = f(...xs), v = y.like(0).add(0), pulled = pullback([[y, v]], xs);
  const inner = xs.flatMap((x, i) => { const g = pulled.get(x); return g ? [g.mul(us[i]).sum()] : []; });
  if (inner.length === 0) return [y, y.like(0)];
  return [y, pullback([[inner.reduce((a, b) => a.add(b)), ones([], y.dtype)]], [v]).get(v) ?? y.like(0)];
}
