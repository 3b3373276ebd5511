import { afterAll, beforeEach, describe, expect, it } from "vitest";
import fc from "fast-check";
import { type HostArray, Tensor, concat, createReference, fromHost, planOf, setDevice, store, tensor, treePaths } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { wasmSync } from "@adjoint/wasm";
import { checkGradient, evaluate } from "@adjoint/testing";
import { golden, goldenTensors } from "@adjoint/testing/fixtures";
import { LSTM, type LSTMOptions } from "@adjoint/nn";

const plain = createReference(), fused = createReference({ name: "fused", fuse: true, arena: true }), wasm = wasmSync();
beforeEach(() => { setDevice(plain); });
afterAll(() => wasm.close());
const runs = Number(process.env["ADJOINT_RUNS"] ?? 16);

/** f64 on the grid k/16. */
function draw(seed: number, shape: readonly number[]): HostArray {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return { dtype: "f64", shape, data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return ((state >>> 8) % 49 - 24) / 16; }) };
}
const close = (got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void => {
  expect(got.length).toBe(want.length);
  for (let i = 0; i < got.length; i++) if (!(Math.abs(got[i] - want[i]) <= tolerance * (1 + Math.abs(want[i])))) expect.fail(`element ${i}: ${got[i]} and ${want[i]}`);
};
interface Size { readonly T: number; readonly B: number; readonly I: number; readonly H: number; readonly layers: number; readonly both: boolean; readonly bias: boolean; readonly seed: number }
const sizes: fc.Arbitrary<Size> = fc.record({ T: fc.constantFrom(1, 2, 4), B: fc.constantFrom(1, 2, 3), I: fc.constantFrom(1, 2, 3), H: fc.constantFrom(1, 2, 3), layers: fc.constantFrom(1, 2), both: fc.boolean(), bias: fc.boolean(), seed: fc.nat(1000) });
/** Parameters by torch's names. */
function parameters({ I, H, layers, both, bias, seed }: Size): Record<string, HostArray> {
  const out: Record<string, HostArray> = {};
  for (let k = 0; k < layers; k++) for (const end of both ? ["", "_reverse"] : [""]) {
    out[`weight_ih_l${k}${end}`] = draw(seed + 1, [4 * H, k === 0 ? I : (both ? 2 : 1) * H]);
    out[`weight_hh_l${k}${end}`] = draw(seed + 2, [4 * H, H]);
    if (bias) for (const kind of ["ih", "hh"]) out[`bias_${kind}_l${k}${end}`] = draw(seed + 3, [4 * H]);
    seed += 17;
  }
  return out;
}
const live = (hosts: Record<string, HostArray>): Record<string, Tensor> => Object.fromEntries(Object.entries(hosts).map(([k, h]) => [k, fromHost(h)]));
const σ = (x: number): number => 1 / (1 + Math.exp(-x));
/** The equations, one number at a time: time first, from zero states. */
function loops(x: HostArray, p: Record<string, HostArray>, { T, B, H, layers, both }: Size): { y: number[]; h: number[]; c: number[] } {
  let seq = Array.from({ length: T }, (_, t) => Array.from({ length: B }, (_u, b) => Array.from(x.data, Number).slice((t * B + b) * x.shape[2], (t * B + b + 1) * x.shape[2])));
  const hs: number[] = [], cs: number[] = [];
  for (let k = 0; k < layers; k++) {
    const out = seq.map((rows) => rows.map((): number[] => []));
    for (const end of both ? ["", "_reverse"] : [""]) {
      const get = (kind: string): HostArray | undefined => p[`${kind}_l${k}${end}`], of = (m: HostArray | undefined, r: number, v: readonly number[]): number => (m ? v.reduce((n, e, j) => n + e * Number(m.data[r * v.length + j]), 0) : 0);
      const steps = Array.from({ length: T }, (_, n) => (end ? T - 1 - n : n));
      for (let b = 0; b < B; b++) {
        let h = new Array<number>(H).fill(0), c = [...h];
        for (const t of steps) {
          const a = (r: number): number => of(get("weight_ih"), r, seq[t][b]) + of(get("weight_hh"), r, h) + of(get("bias_ih"), r, [1]) + of(get("bias_hh"), r, [1]);
          c = c.map((e, j) => σ(a(H + j)) * e + σ(a(j)) * Math.tanh(a(2 * H + j)));
          h = c.map((e, j) => σ(a(3 * H + j)) * Math.tanh(e));
          out[t][b].push(...h);
        }
        hs.push(...h);
        cs.push(...c);
      }
    }
    seq = out;
  }
  return { y: seq.flat(2), h: hs, c: cs };
}

describe("LSTM", () => {
  it("is its equations in f64, on wasm in f32, and its gradients are differences", () => fc.assert(fc.asyncProperty(sizes, async (size) => {
    const x = draw(size.seed, [size.T, size.B, size.I]), p = parameters(size), names = Object.keys(p), want = loops(x, p, size), D = size.both ? 2 : 1, state = [draw(5, [size.layers * D, size.B, size.H]), draw(6, [size.layers * D, size.B, size.H])];
    const { y, state: { h, c } } = new LSTM(live(p)).forward(fromHost(x));
    const exact = await evaluate([y, h, c], plain);
    exact.forEach((got, i) => { close(got, [want.y, want.h, want.c][i], 1e-12); });
    const of = ([x, h, c, ...ws]: readonly Tensor[]): Tensor => {
      const r = new LSTM(Object.fromEntries(ws.map((w, i) => [names[i], w]))).forward(x, {}, { h, c });
      return r.y.square().sum().add(r.state.h.mul(3).sum()).add(r.state.c.square().sum());
    };
    const inputs = [x, ...state, ...Object.values(p)];
    await checkGradient((...xs) => of(xs), inputs);
    const slopes = (dtype: "f32" | "f64"): Tensor[] => { const xs = inputs.map((h) => fromHost({ ...h, dtype, data: (dtype === "f64" ? Float64Array : Float32Array).from(h.data) })); return gradients(of(xs), xs).map((g) => g ?? expect.fail("no gradient")); };
    const sure = await evaluate(slopes("f64"), plain);
    for (const device of [fused, wasm]) (await evaluate(slopes("f32"), device)).forEach((row, i) => { close(row, sure[i], 1e-4); });
  }), { numRuns: Math.ceil(runs / 4) }));
  it("has gradients of its gradients", () => fc.assert(fc.asyncProperty(sizes, async (size) => {
    const p = parameters({ ...size, layers: 1 }), names = Object.keys(p);
    await checkGradient((x, ...ws) => new LSTM(Object.fromEntries(ws.map((w, i) => [names[i], w]))).forward(x).y, [draw(size.seed, [Math.min(size.T, 3), size.B, size.I]), ...Object.values(p)], { order: 2 });
  }), { numRuns: Math.ceil(runs / 8) }));
  it("read in two pieces is read at once; batch first is a permutation; a reversed sequence is the other direction", () => fc.assert(fc.asyncProperty(sizes, fc.nat(3), async (size, cut) => {
    const one = { ...size, both: false }, T = size.T + 1, at = 1 + (cut % (T - 1 || 1)), p = live(parameters(one)), x = fromHost(draw(size.seed, [T, size.B, size.I])), lstm = new LSTM(p);
    const whole = lstm.forward(x), head = lstm.forward(x.slice(0, 0, at)), tail = lstm.forward(x.slice(0, at, T), {}, head.state), swapped = new LSTM(p, { batchFirst: true }).forward(x.permute([1, 0, 2]));
    const both = new LSTM({ ...live(parameters({ ...one, layers: 1 })), ...Object.fromEntries(Object.entries(live(parameters({ ...one, layers: 1, seed: size.seed + 40 }))).map(([k, w]) => [`${k}_reverse`, w])) }).forward(x);
    const flipped = new LSTM(live(parameters({ ...one, layers: 1, seed: size.seed + 40 }))).forward(concat(Array.from({ length: T }, (_, t) => x.slice(0, T - 1 - t, T - t))));
    const [y, y0, y1, h, h1, c, c1, s, hs, back, hb, f, hf] = await evaluate([whole.y, head.y, tail.y, whole.state.h, tail.state.h, whole.state.c, tail.state.c, swapped.y.permute([1, 0, 2]), swapped.state.h, both.y.slice(2, size.H), both.state.h.slice(0, 1), flipped.y, flipped.state.h], plain);
    close([...y0, ...y1], y, 1e-12);
    [[h1, h], [c1, c], [s, y], [hs, h], [hb, hf]].forEach(([a, b]) => { close(a, b, 1e-12); });
    const row = size.B * size.H;
    for (let t = 0; t < T; t++) close(back.slice(t * row, (t + 1) * row), f.slice((T - 1 - t) * row, (T - t) * row), 1e-12);
  }), { numRuns: Math.ceil(runs / 4) }));
  it("with weights of zero forgets half of its cell at each step", async () => {
    const lstm = new LSTM({ weight_ih_l0: tensor(new Float32Array(8 * 3), { shape: [8, 3] }), weight_hh_l0: tensor(new Float32Array(8 * 2), { shape: [8, 2] }) });
    const { y, state } = lstm.forward(tensor(new Float32Array(3 * 3).fill(5), { shape: [3, 1, 3] }), {}, { h: tensor([[[1, 1]]]), c: tensor([[[1, -4]]]) });
    close(await state.c.data(), [1 / 8, -4 / 8], 1e-6);
    close(await y.data(), [1, 2, 3].flatMap((t) => [1, -4].map((c) => Math.tanh(c / 2 ** t) / 2)), 1e-6);
  });
  it("is one product of x for all steps and one of h a step; so is its backward pass, and dW_hh is two", () => {
    setDevice(fused);
    const T = 6, w = (...shape: number[]): Tensor => store(tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), { shape }));
    const p = { weight_ih_l0: w(12, 5), weight_hh_l0: w(12, 3), bias_ih_l0: w(12), bias_hh_l0: w(12) }, x = w(T, 2, 5), state = { h: w(1, 2, 3), c: w(1, 2, 3) };
    const run = (): Tensor => new LSTM(p).forward(x, {}, state).y, count = (ts: readonly (Tensor | null)[]): number => planOf(ts.filter((t) => t !== null)).spec.kernels.filter((k) => k.kind === "contract").length;
    const products = count([run()]), both = count(Object.values(gradients(run().square().sum(), { x, ...p })));
    expect([products, both]).toEqual([1 + T, (1 + T) + T + 3]);
  });
  const { lstms } = golden<{ lstms: Record<string, { batch_first?: boolean }> }>("layers"), tensors = goldenTensors("layers");
  it.each(Object.entries(lstms))("%s is torch's, with its gradients", async (name, { batch_first: batchFirst = false }) => {
    setDevice(wasm);
    const of = (key: string): HostArray => tensors.get(`${name}/${key}`) ?? expect.fail(key), has = (key: string): boolean => tensors.has(`${name}/${key}`);
    const p = Object.fromEntries([...tensors.keys()].filter((k) => k.startsWith(`${name}/`)).map((k) => k.slice(name.length + 1)).filter((k) => /^(weight|bias)_/.test(k)).map((k) => [k, store(of(k), k)]));
    const x = store(of("x")), given = has("h0") ? { h0: store(of("h0")), c0: store(of("c0")) } : null, leaves: Record<string, Tensor> = { x, ...p, ...given };
    const lstm = new LSTM(p, { batchFirst }), { y, state } = lstm.forward(x, {}, given && { h: given.h0, c: given.c0 }), results = { y, ...state };
    const loss = Object.entries(results).map(([k, t]) => t.mul(fromHost(of(`v/${k}`))).sum()).reduce((a, b) => a.add(b)), g = gradients(loss, leaves);
    for (const [k, t] of Object.entries(results)) close(await t.data(), Array.from(of(k).data, Number), 1e-5);
    for (const k of Object.keys(leaves)) close((await g[k]?.data()) ?? expect.fail(k), Array.from(of(`grad/${k}`).data, Number), 2e-5);
  });
  it("has torch's names as its fields, and hands every weight to the adapter under its name", async () => {
    const size: Size = { T: 2, B: 1, I: 2, H: 2, layers: 2, both: true, bias: true, seed: 4 }, p = live(parameters(size)), lstm = new LSTM(p), x = fromHost(draw(9, [2, 1, 2])), seen: string[] = [];
    expect(treePaths(lstm, (t): t is Tensor => t instanceof Tensor)).toEqual(Object.keys(p));
    expect([lstm.inputSize, lstm.hiddenSize, lstm.numLayers, lstm.bidirectional, lstm.hasBias, lstm.batchFirst]).toEqual([2, 2, 2, true, true, false]);
    const { y } = lstm.forward(x, { adapter: { weight: (m, name, w) => { expect(m).toBe(lstm); seen.push(name); return name === "weight_hh_l1" ? w.mul(2) : w; } } });
    expect(seen.sort()).toEqual(Object.keys(p).filter((k) => k.startsWith("weight")).sort());
    expect(await y.data()).toEqual(await new LSTM({ ...p, weight_hh_l1: p["weight_hh_l1"].mul(2) }).forward(x).y.data());
  });
  it("drops between layers only, in training only, by the context's key", async () => {
    const size: Size = { T: 3, B: 2, I: 2, H: 3, layers: 2, both: false, bias: true, seed: 8 }, p = live(parameters(size)), x = fromHost(draw(9, [3, 2, 2])), key = { seed: 1, stream: "dropout" };
    const of = async (options: LSTMOptions, context = {}): Promise<number[]> => [...(await new LSTM(p, options).forward(x, context).y.data())].map(Number);
    const still = await of({}), dropped = await of({ dropout: 0.5 }, { train: true, key });
    expect(await of({ dropout: 0.5 })).toEqual(still);
    expect(dropped).not.toEqual(still);
    expect(await of({ dropout: 0.5 }, { train: true, key })).toEqual(dropped);
    expect(await of({ dropout: 0.5, stream: "other" }, { train: true, key })).not.toEqual(dropped);
    await expect(of({ dropout: 0.5 }, { train: true })).rejects.toThrow("training needs a key");
    expect((await new LSTM(live(parameters({ ...size, layers: 1 })), { dropout: 0.5 }).forward(x, { train: true, key }).y.data()).every((v) => v !== 0)).toBe(true);
  });
  it("says what does not fit, and how to mend it", () => {
    const w = (...shape: number[]): Tensor => tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), { shape }), p = { weight_ih_l0: w(8, 3), weight_hh_l0: w(8, 2) }, lstm = new LSTM(p);
    expect(() => new LSTM({ ...p, weight_hr_l0: w(1, 2) })).toThrow("proj_size");
    expect(() => new LSTM(p, { projSize: 1 })).toThrow("projSize");
    expect(() => new LSTM({ ...p, weight_xh_l0: w(1) })).toThrow("weight_xh_l0 is not a parameter");
    expect(() => new LSTM({ ...p, bias_ih_l0: w(8) })).toThrow("bias_hh_l0 is missing");
    expect(() => new LSTM({ ...p, weight_ih_l2: w(8, 2), weight_hh_l2: w(8, 2) })).toThrow("weight_ih_l1 is missing");
    expect(() => new LSTM({ ...p, weight_ih_l0_reverse: w(8, 3) })).toThrow("weight_hh_l0_reverse is missing");
    expect(() => new LSTM({ ...p, weight_ih_l0: w(9, 3) })).toThrow("weight_ih_l0 is [9, 3], expected [8, 3]");
    expect(() => new LSTM(p, JSON.parse('{"bidirectional":true}'))).toThrow("bidirectional is not an option");
    expect(() => lstm.forward(w(4, 2, 3), JSON.parse('{"state":{}}'))).toThrow("state is no part of a context");
    expect(() => lstm.forward(w(4, 2, 3), JSON.parse('{"context":{"train":true}}'))).toThrow("context is no part of a context");
    expect(() => new LSTM(p, { dropout: 1 })).toThrow("[0, 1)");
    expect(() => lstm.forward(w(4, 3))).toThrow("add the batch's axis");
    expect(() => lstm.forward(w(4, 2, 2))).toThrow("must be [T, batch, 3], got [4, 2, 2]");
    expect(() => lstm.forward(w(4, 2, 3), {}, { h: w(1, 2, 2), c: w(1, 1, 2) })).toThrow("state.c must be [1, 2, 2]");
  });
});
