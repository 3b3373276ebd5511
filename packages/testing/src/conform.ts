/**
 * The conformance suite: laws for every op on a backend, generated from the op's own entry.
 *
 * `conform(backend, ops)` returns named laws for any test runner. Expected values come from the oracle, which shares
 * nothing with scheduler or backend; bounds come from bounds.ts, and `shares()` says how much of them was used.
 */
import fc from "fast-check";
import { type Backend, type Counters, type Tensor, AdjointError, ConfigError, createReference, expand, fromHost, hashName, isFloat, knownOptions, type OptionNames, permute, randomBits, randomMask, randomUniform, sameShape, scalar, sizeOf, slice, sum, threefry, uniformOf } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { type Draw, distinct, hostOf, orders, shapes } from "./arbitraries.ts";
import { assignmentPrograms, checkAssignments } from "./assignments.ts";
import { tensorSubjects } from "./core.ts";
import { answer, evaluate, record } from "./evaluate.ts";
import { checkGradient } from "./gradient.ts";
import { type Program, interpret, programs, rootsOf } from "./graphs.ts";
import { compareTraces, drivers, loops, stateful, stateless } from "./loops.ts";
import { largeSubjects } from "./large.ts";
import { judge, oracle } from "./oracle.ts";
import { type Sample, type Subject, type Testable, subjectOf } from "./subjects.ts";

/** One law: run `check`; it throws a shrunk counterexample. */
export interface Law {
  /** "values", "gradients", "differences", "layouts", "broadcasting", "graphs", "fusion", "random bits", "memory", "stores, ...", or "law: ..." */
  readonly kind: string;
  readonly subject: string;
  readonly name: string;
  check(): Promise<void>;
}
/** Laws of one backend. */
export interface Conformance {
  readonly laws: readonly Law[];
  /** the largest share of a bound that any value used so far, by subject and law, largest first */
  shares(): { readonly name: string; readonly share: number }[];
}
/** How much is drawn. */
export interface ConformOptions {
  /** draws a law; default 25 */
  readonly runs?: number;
  /** random graphs a law; default 150 */
  readonly graphs?: number;
  /** instructions in a random graph; default 12 */
  readonly length?: number;
  /** seed of fast-check; default 1, so that a run repeats */
  readonly seed?: number;
  /** column of the bounds; default the backend's name */
  readonly column?: string;
}

/** The same backend without fusion and without hand-written composites: what `define` says, one node a kernel. */
export function unfused(backend: Backend): Backend {
  return { ...forward(backend), fuse: false, composites: new Set<string>() };
}
/** A plain object that passes everything on; spread it to change a part. */
export function forward(backend: Backend): Backend {
  const { readSync, source, pace, products, decodes } = backend;
  return {
    name: backend.name, dtypes: backend.dtypes, fuse: backend.fuse, composites: backend.composites, threads: backend.threads, sync: backend.sync,
    get counters() { return backend.counters; },
    alloc: (dtype, length) => backend.alloc(dtype, length), free: (b) => { backend.free(b); }, write: (b, data) => { backend.write(b, data); }, read: (b) => backend.read(b),
    ...(readSync ? { readSync: (b) => readSync.call(backend, b) } : {}),
    prepare: (plan) => backend.prepare(plan), run: (p, b) => backend.run(p, b), release: (p) => { backend.release(p); },
    ...(pace ? { pace: (queued) => pace.call(backend, queued) } : {}), ...(products === undefined ? {} : { products }), ...(decodes === undefined ? {} : { decodes }),
    ...(source ? { source: (k, plan) => source.call(backend, k, plan) } : {}),
  };
}

const reference = createReference();
const tensors = (inputs: readonly Draw[], float: "f32" | "f64" = "f32"): Tensor[] => inputs.map((d) => fromHost(hostOf(d, float)));
const fail = (text: string): never => { throw new AdjointError(text, { op: "conform" }); };

/** The subjects of the tensor package. */
const ours: ReadonlySet<Testable> = new Set([...tensorSubjects, ...largeSubjects]);
const conformNames: OptionNames<Required<ConformOptions>> = { runs: true, graphs: true, length: true, seed: true, column: true };

/**
 * Generated laws of `ops` (default: every op of the tensor package) on a backend, and of the backend itself: graphs, stores, memory (their `subject` names no op).
 * Gradients of your ops are compared with differences in f64, on the reference where the backend has no f64.
 * @throws ConfigError for an unknown option, and where `ops` is no list
 * @example for (const law of conform(backend, [op]).laws) if (law.subject === op.op.name) test(law.name, () => law.check());
 */
export function conform(backend: Backend, ops: readonly Testable[] = tensorSubjects, options: ConformOptions = {}): Conformance {
  const given: unknown = ops;
  if (!Array.isArray(given)) throw new ConfigError("conform: the ops are no list", { op: "conform", key: "ops", fix: "conform(backend, [op])" });
  knownOptions("conform", options, conformNames);
  const { runs = 25, graphs = 150, length = 12, seed = 1, column = backend.name } = options;
  // a shared accumulator and a hand-written composite add in another order, so equality bit for bit is asked of fused kernels with one product each
  const exact = backend.composites.size === 0 && (backend.products ?? 1) === 1 ? backend : { ...forward(backend), composites: new Set<string>(), products: 1 };
  const used = new Map<string, number>(), laws: Law[] = [], plain = unfused(backend), f64 = backend.dtypes.has("f64");
  // where registers may be wider than f32, equality bit for bit is asked of f64
  const wide = f64 ? "f64" : "f32";
  const law = (kind: string, subject: string, check: (name: string) => Promise<void>): void => {
    const name = `${subject}: ${kind}`;
    laws.push({ kind, subject, name, check: () => check(name) });
  };
  const forAll = <T>(arbitrary: fc.Arbitrary<T>, property: (x: T) => Promise<void>, numRuns: number): Promise<void> =>
    fc.assert(fc.asyncProperty(arbitrary, property), { numRuns, seed, endOnFailure: false });
  /** Every value within its bound of the oracle's. */
  const within = async (name: string, ys: readonly Tensor[], on: Backend = backend, note = ""): Promise<void> => {
    const want = oracle(ys, column), got = await evaluate(ys, on);
    want.forEach((w, i) => {
      const { share, fault } = judge(w, got[i]);
      if (fault !== null) fail(`${name}: result ${i}: ${fault}${note}`);
      used.set(name, Math.max(used.get(name) ?? 0, share));
    });
  };
  /** Equal bit for bit; NaN equals NaN. */
  const same = async (name: string, a: readonly Tensor[], b: readonly Tensor[], onA: Backend = backend, onB: Backend = backend, note = ""): Promise<void> => {
    const [x, y] = [await evaluate(a, onA), await evaluate(b, onB)];
    x.forEach((v, i) => v.forEach((e, j) => { if (!Object.is(e, y[i][j]) && e !== y[i][j]) fail(`${name}: element ${j} of result ${i} is ${e} one way and ${y[i][j]} the other${note}`); }));
  };
  /** A scalar loss of y and its gradients for all float inputs that it reaches. */
  const withGradients = (y: Tensor, xs: readonly Tensor[]): Tensor[] => {
    const loss = sum(y.mul(weights(y)));
    return [y, ...gradients(loss.add(xs.filter((x) => isFloat(x.dtype)).map((x) => sum(x.mul(0)).cast(loss.dtype)).reduce((a, b) => a.add(b))), [...xs]).filter((g) => g !== null)];
  };

  for (const testable of ops) {
    const s = subjectOf(testable);
    law("values", s.name, (name) => forAll(s.samples, async (x) => {
      const xs = tensors(x.inputs), y = x.apply(xs);
      await within(name, [y]);
      if (backend.name !== "reference") await within(name, [y], reference);
    }, runs));

    if (s.smooth) {
      law("gradients", s.name, (name) => forAll(s.samples, async (x) => { const xs = tensors(distinct(x.inputs)); await within(name, withGradients(x.apply(xs), xs)); }, runs));
      const exactly = f64 ? backend : ours.has(testable) ? null : reference;   // a vjp is right or wrong on every backend; ours are checked where the reference is
      if (exactly !== null) law("differences", s.name, () => forAll(s.samples, async (x) => { await checkGradient((...xs) => x.apply(xs), distinct(x.inputs).map((d) => hostOf(d, "f64")), { order: 2, backend: exactly }); }, Math.ceil(runs / 2)));
    }

    law("fusion", s.name, (name) => forAll(s.samples, async (x) => { const y = [x.apply(tensors(x.inputs, wide))]; await same(name, y, y, exact, plain); }, runs));

    law("layouts", s.name, (name) => forAll(laidOut(s), async ({ sample, layouts }) => {
      await within(name, [sample.apply(tensors(sample.inputs).map((x, i) => disguise(x, layouts[i])))], backend, ` (layouts ${JSON.stringify(layouts)})`);
      const plainly = sample.apply(tensors(sample.inputs)), disguised = sample.apply(tensors(sample.inputs).map((x, i) => disguise(x, layouts[i])));
      if (!sameShape(plainly.shape, disguised.shape)) fail(`${name}: the result's shape depends on the layout`);
    }, runs));

    if (typeof s.laws === "object") for (const [title, sides] of Object.entries(s.laws)) law(`law: ${title}`, s.name, (name) => forAll(s.samples, async (x) => {
      const xs = tensors(x.inputs), [left, right] = sides(...xs);
      await agree(name, left, right, backend, column);
    }, runs));
  }

  law("random bits", "host and device", () => forAll(fc.record({ shape: shapes({ maxRank: 3 }), seed: fc.integer({ min: 0, max: 0xffffffff }), step: fc.nat(1000), stream: fc.string({ maxLength: 5 }) }), async ({ shape, seed: s, step, stream }) => {
    const key = { seed: s, stream, step: scalar(step, "u32") }, host = Array.from({ length: sizeOf(shape) }, (_, i) => threefry(s, hashName(stream), i, step)[0]);
    const [bits, uniform, mask] = await evaluate([randomBits(shape, key), randomUniform(shape, key), randomMask(shape, 0.25, key)], backend);
    host.forEach((w, i) => { if (bits[i] !== w || uniform[i] !== uniformOf(w) || mask[i] !== (w >>> 8 < 2 ** 22 ? 1 : 0)) fail(`random bits: element ${i} of [${shape.join()}] is ${bits[i]}, ${uniform[i]}, ${mask[i]}; the host draws ${w}`); });
  }, runs));

  for (const t of ops) {
    if ("samples" in t || t.length !== 2) continue;
    const s = subjectOf(t);
    law("broadcasting", s.name, (name) => forAll(s.samples, async (x) => {
      const xs = tensors(x.inputs), y = x.apply(xs);
      await same(name, [y], [x.apply(xs.map((e) => expand(e, y.shape)))]);
    }, runs));
  }

  const graph = async (p: Program, ways: (roots: Tensor[], note: string) => Promise<void>, float: "f32" | "f64" = "f32"): Promise<void> => {
    const leaves = tensors(p.leaves, float), { values, trace } = interpret(p, leaves), asked = rootsOf(p, values);
    const loss = asked.map((r) => sum(r.mul(0.5))).reduce((a, b) => a.add(b));
    await ways(asked, `\n${trace.join("\n")}`);
    await ways([loss, ...gradients(loss, leaves).filter((g) => g !== null)], `\n${trace.join("\n")}\ngradients`);
  };
  law("graphs", "random graphs", (name) => forAll(programs(length), (p) => graph(p, (roots, note) => within(name, roots, backend, note)), graphs));
  law("fusion", "random graphs", (name) => forAll(programs(length), (p) => graph(p, async (roots, note) => {
    // the gradient of a half-precision value passes through f32, which f64 registers do not round to
    if (f64 && note.endsWith("gradients")) await within(name, roots, backend, note); else await same(name, roots, roots, exact, plain, note);
  }, wide), graphs));
  const still = (name: string, what: string, before: Counters, keys: readonly (keyof Counters)[]): void => {
    for (const key of keys) if (backend.counters[key] !== before[key]) fail(`${name}: counter ${key} went from ${before[key]} to ${backend.counters[key]} ${what}`);
  };
  law("memory", "random graphs", (name) => forAll(programs(length), async (p) => {
    const { values } = interpret(p, tensors(p.leaves)), roots = rootsOf(p, values).filter((t) => !t.value);
    if (roots.length === 0) return;
    await evaluate(roots, backend);                                     // the arena may grow once
    const before: Counters = { ...backend.counters };
    const { plan, inputs, uniforms } = record(roots, backend), prepared = backend.prepare(plan), run = (): Promise<unknown> => answer(backend, backend.run(prepared, { stores: [], inputs, uniforms }), 0);
    await run();
    const ready: Counters = { ...backend.counters };
    for (let i = 0; i < 3; i++) await run();
    still(name, "when a plan ran again", ready, ["arenaBytes", "bufferBytes", "buffers", "pages", "modules", "messages"]);
    backend.release(prepared);
    still(name, "after the plan was released", before, ["arenaBytes", "bufferBytes", "buffers", "pages"]);
  }, Math.ceil(graphs / 5)));

  for (const driver of drivers) law(`stores, ${driver}`, "random loops", (name) => forAll(loops(8, !f64), async (loop) => {
    compareTraces(await stateless(loop, backend, wide), await stateful(loop, backend, driver, wide), name);
  }, Math.ceil(graphs / 2)));

  law("stores, assignments", "random programs", (name) => forAll(assignmentPrograms(), (p) => checkAssignments(p, backend, name), graphs));

  return { laws, shares: () => [...used].map(([name, share]) => ({ name, share })).sort((a, b) => b.share - a.share) };
}

/** Fixed weights on the grid, so that a loss sees every element differently. */
const weights = (y: Tensor): Tensor => fromHost(hostOf({ shape: y.shape, dtype: y.dtype, values: Array.from({ length: y.size }, (_, i) => (((i * 7) % 16) - 7.5) / 8) }, "f32"));

/** Both sides of an identity, each within its own bound: they may differ by the sum. */
async function agree(name: string, left: Tensor, right: Tensor, backend: Backend, column: string): Promise<void> {
  const [a, b] = oracle([left, right], column), [x, y] = await evaluate([left, right], backend);
  const exact = createExact(a.errors, b.errors);
  if (x.length !== y.length) fail(`${name}: ${x.length} values on one side, ${y.length} on the other`);
  x.forEach((v, i) => { if (!(Math.abs(v - y[i]) <= exact(i, v))) fail(`${name}: element ${i} is ${v} on one side and ${y[i]} on the other`); });
}
/** An identity of real numbers may cost each side one rounding. */
const createExact = (a: Float64Array, b: Float64Array) => (i: number, v: number): number => a[i] + b[i] + 2 ** -22 * Math.abs(v);

/** How a tensor lies in memory: stored in another order of axes, and cut from something larger. */
export interface Layout { readonly order: readonly number[]; readonly before: number; readonly after: number }
interface LaidOut { readonly sample: Sample; readonly layouts: readonly Layout[] }
function laidOut(s: Subject): fc.Arbitrary<LaidOut> {
  return s.samples.chain((sample) => fc.tuple(...sample.inputs.map((d) => fc.record({ order: orders(d.shape.length), before: fc.nat(2), after: fc.nat(2) }))).map((layouts): LaidOut =>
    Object.defineProperty({ sample, layouts }, fc.toStringMethod, { value: () => `${sample.text} with layouts ${JSON.stringify(layouts)}`, enumerable: false })));
}
/** The same values behind a permutation and a slice. */
export function disguise(x: Tensor, { order, before, after }: Layout): Tensor {
  if (!x.value || x.rank === 0) return x;
  const inverse = order.map((_, i) => order.indexOf(i)), stored = order.map((a) => x.shape[a]), strides = rowMajorOf(x.shape), padded = [stored[0] + before + after, ...stored.slice(1)];
  const data = x.value.data.slice(0, 0), size = padded.reduce((a, b) => a * b, 1), inside = stored.slice(1).reduce((a, b) => a * b, 1);
  const values = Reflect.construct(data.constructor, [size]) as typeof data;
  const rest = rowMajorOf(stored);
  for (let p = 0; p < x.size; p++) {
    let q = 0;
    for (let a = 0, r = p; a < stored.length; a++) { const i = Math.floor(r / rest[a]); r -= i * rest[a]; q += i * strides[order[a]]; }
    values[before * inside + p] = x.value.data[q];
  }
  return permute(slice(fromHost({ dtype: x.dtype, shape: padded, data: values }), 0, before, before + stored[0]), inverse);
}
const rowMajorOf = (shape: readonly number[]): number[] => shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
