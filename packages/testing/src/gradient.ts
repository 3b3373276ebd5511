/** Gradients against differences, in f64: ⟨v, J u⟩ by symmetric differences must equal ⟨vjp(v), u⟩. */
import { type Backend, type HostArray, type Tensor, AdjointError, createReference, fromHost, hostUniform, sum } from "@adjoint/tensor";
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

const STEP = 2 ** -14;
const reference = createReference();

/** Directions on the grid k/16 in [-1, 1], the same for the same seed. */
function direction(seed: number, name: string, shape: readonly number[]): HostArray {
  const { data } = hostUniform(seed, name, shape);
  return { dtype: "f64", shape, data: Float64Array.from(data, (x) => Math.round(32 * x - 16) / 16) };
}
const inner = (a: Tensor, b: Tensor): Tensor => sum(a.mul(b));
const total = (xs: readonly Tensor[]): Tensor => xs.reduce((a, b) => a.add(b));
/** Gradients with zeros where the loss does not reach; the zero term lets a loss be constant. */
function slopes(loss: Tensor, xs: readonly Tensor[]): Tensor[] {
  const found = gradients(loss.add(total(xs.map((x) => sum(x.mul(0))))), [...xs]);
  return xs.map((x, i) => found[i] ?? x.mul(0));
}

/**
 * Checks the gradient of `f` at `inputs` along one random direction: throws with both numbers when they differ.
 *
 * Inputs of dtype f64 are differentiated, others (ids, masks) are passed on. Differences are of fourth order,
 * (8(φ(h) - φ(-h)) - (φ(2h) - φ(-2h)))/12h with h = 2^-14, so they are good to about 1e-10 for smooth f; keep inputs
 * at least 2^-12 away from kinks.
 * @throws AdjointError if the gradient is wrong
 */
export async function checkGradient(f: (...xs: Tensor[]) => Tensor, inputs: readonly HostArray[], { order = 1, tolerance = 1e-6, seed = 0, backend = reference }: CheckOptions = {}): Promise<Checked[]> {
  const moving = inputs.map((x) => x.dtype === "f64"), u = inputs.map((x, i) => direction(seed, `u${i}`, x.shape)), w = inputs.map((x, i) => direction(seed, `w${i}`, x.shape));
  const at = (s: number): Tensor[] => inputs.map((x, i) => fromHost(moving[i] ? { ...x, data: Float64Array.from(x.data, (a, j) => a + s * u[i].data[j]) } : x));
  const live = (xs: readonly Tensor[]): Tensor[] => xs.filter((_, i) => moving[i]);
  const along = (hosts: readonly HostArray[]): Tensor[] => live(hosts.map(fromHost));
  if (!moving.includes(true)) throw new AdjointError("checkGradient: no input is f64", { op: "checkGradient", fix: 'pass { dtype: "f64", shape, data } for the inputs to differentiate' });

  /** ⟨v, f⟩ */
  const first = (xs: readonly Tensor[]): Tensor => { const y = f(...xs); return inner(y, fromHost(direction(seed, "v", y.shape))); };
  /** ⟨w, gradient of ⟨v, f⟩⟩ */
  const second = (xs: readonly Tensor[]): Tensor => total(slopes(first(xs), live(xs)).map((g, i) => inner(g, along(w)[i])));

  const results: Checked[] = [];
  for (const n of order === 2 ? ([1, 2] as const) : ([1] as const)) {
    const phi = n === 1 ? first : second;
    const value = async (s: number): Promise<number> => (await evaluate([phi(at(s))], backend))[0][0];
    const [a, b, c, d] = [await value(STEP), await value(-STEP), await value(2 * STEP), await value(-2 * STEP)];
    const differences = (8 * (a - b) - (c - d)) / (12 * STEP);
    const xs = at(0), gs = slopes(phi(xs), live(xs));
    gs.forEach((g, i) => { if (g.shape.join() !== live(xs)[i].shape.join()) throw new AdjointError(`gradient ${i} has shape [${g.shape.join(", ")}], its input [${live(xs)[i].shape.join(", ")}]`, { op: "checkGradient" }); });
    const [[gradient]] = await evaluate([total(gs.map((g, i) => inner(g, along(u)[i])))], backend);
    const size = 1 + Math.abs(gradient) + Math.abs(a), error = Math.abs(differences - gradient) / size;
    if (!(error <= tolerance)) throw new AdjointError(`gradient of order ${n} is ${gradient}, differences say ${differences} (relative ${error.toExponential(2)}, allowed ${tolerance})`, { op: "checkGradient", value: { gradient, differences } });
    results.push({ order: n, differences, gradient, error });
  }
  return results;
}
