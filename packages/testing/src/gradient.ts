/** Gradients against differences, in f64: ⟨v, J u⟩ by symmetric differences must equal ⟨vjp(v), u⟩. */
import { type Backend, type HostArray, type MapLeaves, type Tensor, AdjointError, Store, convertArray, createReference, flatten, fromHost, hostUniform, isFloat, knownOptions, mapTree, show, sum, type OptionNames } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { evaluate } from "./evaluate.ts";

/** How a check is made. */
export interface CheckOptions {
  /** 1: f's gradient; 2: also the gradient of that gradient; default 1 */
  readonly order?: 1 | 2;
  /** largest difference allowed, relative to the size of the terms; default 1e-6 */
  readonly tolerance?: number;
  /** seed of the directions; default 0 */
  readonly seed?: number;
  /** where f is evaluated: a backend that has f64; default the reference */
  readonly backend?: Backend;
}
/** What was compared. */
export interface Checked { readonly order: 1 | 2; readonly differences: number; readonly gradient: number; readonly error: number }

const names: OptionNames<Required<CheckOptions>> = { order: true, tolerance: true, seed: true, backend: true };
const STEP = 2 ** -14;
/** Elements of an input that are looked at one by one once a gradient is known to be wrong. */
const LOOKED_AT = 48;
const reference = createReference();

/** Directions of odd multiples of 1/32 in [-1, 1], so that no element is left out; the same for the same seed. */
function direction(seed: number, name: string, shape: readonly number[]): HostArray {
  const { data } = hostUniform(seed, name, shape);
  return { dtype: "f64", shape, data: Float64Array.from(data, (x) => (2 * Math.floor(32 * x) - 31) / 32) };
}
const inner = (a: Tensor, b: Tensor): Tensor => sum(a.mul(b));
const total = (xs: readonly Tensor[]): Tensor => xs.reduce((a, b) => a.add(b));
/** Gradients with zeros where the loss does not reach; the zero term lets a loss be constant. */
function slopes(loss: Tensor, xs: readonly Tensor[]): Tensor[] {
  const found = gradients(loss.add(total(xs.map((x) => sum(x.mul(0))))), [...xs]);
  return xs.map((x, i) => found[i] ?? x.mul(0));
}

/**
 * Checks the gradient of `f` at `inputs` along one random direction: throws with both numbers when they differ, and says at which element of which input most.
 *
 * Inputs of dtype f64 are differentiated, others (ids, masks) are passed on. Differences are of fourth order,
 * (8(φ(h) - φ(-h)) - (φ(2h) - φ(-2h)))/12h with h = 2^-14, so they are good to about 1e-10 for smooth f; keep inputs
 * at least 2^-12 away from kinks. φ = ⟨v, f⟩ with a random v, so f may have any shape.
 * @throws AdjointError if the gradient is wrong
 * @example await checkGradient((x) => x.tanh().sum(), [{ dtype: "f64", shape: [2], data: Float64Array.of(0.5, -1) }]);
 */
export async function checkGradient(f: (...xs: Tensor[]) => Tensor, inputs: readonly HostArray[], options: CheckOptions = {}): Promise<Checked[]> {
  knownOptions("checkGradient", options, names);
  return check(f, inputs, inputs.map((_, i) => `input ${i}`), options);
}

/**
 * Checks the gradient of a model: `f(copy)` for a copy of the tree whose floating-point stores have become f64 tensors. What f feeds it must be f64 too: `x.cast("f64")`.
 * @throws AdjointError if the gradient is wrong, naming the parameter; or if the tree holds no floating-point store
 * @example await checkModel(net, (m) => m.forward(x.cast("f64")).square().mean());
 */
export async function checkModel<M extends object>(model: M, f: (model: MapLeaves<M, Store, Tensor>) => Tensor, options: CheckOptions = {}): Promise<Checked[]> {
  knownOptions("checkModel", options, names);
  const isParameter = (x: unknown): x is Store => x instanceof Store && isFloat(x.dtype), { leaves, paths } = flatten(model, isParameter), stores = [...new Set(leaves)];
  if (stores.length === 0) throw new AdjointError("checkModel: the tree holds no floating-point store", { op: "checkModel", fix: "make its parameters stores: store(tensor)" });
  const hosts = await Promise.all(stores.map(async (s): Promise<HostArray> => { const h = await s.host(); return { dtype: "f64", shape: h.shape, data: convertArray(h.data, h.dtype, "f64") }; }));
  return check((...xs) => f(mapTree(model, isParameter, (s) => xs[stores.indexOf(s)])), hosts, stores.map((s) => paths[leaves.indexOf(s)]), options);
}

async function check(f: (...xs: Tensor[]) => Tensor, inputs: readonly HostArray[], called: readonly string[], { order = 1, tolerance = 1e-6, seed = 0, backend = reference }: CheckOptions): Promise<Checked[]> {
  const moving = inputs.map((x) => x.dtype === "f64"), u = inputs.map((x, i) => direction(seed, `u${i}`, x.shape)), w = inputs.map((x, i) => direction(seed, `w${i}`, x.shape));
  const at = (s: number, along: (i: number, j: number) => number): Tensor[] => inputs.map((x, i) => fromHost(moving[i] ? { ...x, data: Float64Array.from(x.data, (a, j) => a + s * along(i, j)) } : x));
  const live = <T>(xs: readonly T[]): T[] => xs.filter((_, i) => moving[i]);
  const along = (hosts: readonly HostArray[]): Tensor[] => live(hosts.map(fromHost));
  if (!moving.includes(true)) throw new AdjointError("checkGradient: no input is f64", { op: "checkGradient", fix: 'pass { dtype: "f64", shape, data } for the inputs to differentiate' });

  /** ⟨v, f⟩ */
  const first = (xs: readonly Tensor[]): Tensor => { const y = f(...xs); return inner(y, fromHost(direction(seed, "v", y.shape))); };
  /** ⟨w, gradient of ⟨v, f⟩⟩ */
  const second = (xs: readonly Tensor[]): Tensor => total(slopes(first(xs), live(xs)).map((g, i) => inner(g, along(w)[i])));

  const results: Checked[] = [];
  for (const n of order === 2 ? ([1, 2] as const) : ([1] as const)) {
    const phi = n === 1 ? first : second;
    const value = async (s: number, by: (i: number, j: number) => number): Promise<number> => (await evaluate([phi(at(s, by))], backend))[0][0];
    const slope = async (by: (i: number, j: number) => number): Promise<{ readonly differences: number; readonly a: number }> => {
      const [a, b, c, d] = [await value(STEP, by), await value(-STEP, by), await value(2 * STEP, by), await value(-2 * STEP, by)];
      return { differences: (8 * (a - b) - (c - d)) / (12 * STEP), a };
    };
    const { differences, a } = await slope((i, j) => u[i].data[j]);
    const xs = at(0, () => 0), gs = slopes(phi(xs), live(xs));
    gs.forEach((g, i) => { if (g.shape.join() !== live(xs)[i].shape.join()) throw new AdjointError(`gradient ${i} has shape [${g.shape.join(", ")}], its input [${live(xs)[i].shape.join(", ")}]`, { op: "checkGradient" }); });
    const [[gradient], ...byElement] = await evaluate([total(gs.map((g, i) => inner(g, along(u)[i]))), ...gs], backend);
    const size = 1 + Math.abs(gradient) + Math.abs(a), error = Math.abs(differences - gradient) / size;
    if (!(error <= tolerance)) {
      const where = await worst(inputs, moving, byElement, async (i, j) => (await slope((input, element) => (input === i && element === j ? 1 : 0))).differences);
      // of a function with one number as its value the gradient itself can be told
      const y = f(...xs), v = y.size === 1 && n === 1 ? direction(seed, "v", y.shape).data[0] : 1, of = n === 2 ? " of ⟨w, first gradient⟩, w fixed," : y.size === 1 ? "" : " of ⟨v, f⟩, v fixed,";
      const place = where === null ? "" : `\n  most at ${called[where.input]} ${show(inputs[where.input].shape)}, element [${where.index.join(", ")}] = ${where.value}: the gradient${of} is ${where.gradient / v}, differences say ${where.differences / v}`;
      throw new AdjointError(`gradient of order ${n} is ${gradient}, differences say ${differences} (relative ${error.toExponential(2)}, allowed ${tolerance})${place}`, { op: "checkGradient", ...(where === null ? {} : { key: called[where.input] }), value: { gradient, differences, where } });
    }
    results.push({ order: n, differences, gradient, error });
  }
  return results;
}

interface Where { readonly input: number; readonly index: readonly number[]; readonly value: number; readonly gradient: number; readonly differences: number }
/** The element, of the first few of each input, whose gradient is farthest from its differences. */
async function worst(inputs: readonly HostArray[], moving: readonly boolean[], gradient: readonly (readonly number[])[], slope: (input: number, element: number) => Promise<number>): Promise<Where | null> {
  let found: Where | null = null, most = 0;
  for (let input = 0, live = 0; input < inputs.length; input++) {
    if (!moving[input]) continue;
    const own = gradient[live++], { shape, data } = inputs[input];
    for (let j = 0; j < Math.min(data.length, LOOKED_AT); j++) {
      const differences = await slope(input, j), off = Math.abs(differences - own[j]);
      if (off <= most && !Number.isNaN(off)) continue;
      most = Number.isNaN(off) ? Infinity : off;
      found = { input, index: shape.map((d, axis) => Math.floor(j / shape.slice(axis + 1).reduce((p, q) => p * q, 1)) % d), value: data[j], gradient: own[j], differences };
    }
  }
  return found;
}
