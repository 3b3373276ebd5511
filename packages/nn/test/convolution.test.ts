import { afterAll, beforeEach, describe, expect, it } from "vitest";
import fc from "fast-check";
import { type HostArray, type Tensor, createReference, fromHost, planOf, setDevice, store, tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { wasmSync } from "@adjoint/wasm";
import { checkGradient, evaluate } from "@adjoint/testing";
import { golden, goldenTensors } from "@adjoint/testing/fixtures";
import { Conv1d, Conv2d, type ConvolutionOptions, convolutionGeometry, convolve } from "@adjoint/nn";

const plain = createReference(), fused = createReference({ name: "fused", fuse: true, arena: true }), wasm = wasmSync();
beforeEach(() => { setDevice(plain); });
afterAll(() => wasm.close());
const runs = Number(process.env["ADJOINT_RUNS"] ?? 16);

interface Axis { readonly size: number; readonly k: number; readonly s: number; readonly d: number; readonly p: readonly [number, number] }
const axis: fc.Arbitrary<Axis> = fc.record({ size: fc.constantFrom(1, 2, 3, 5, 7), k: fc.constantFrom(1, 2, 3), s: fc.constantFrom(1, 2, 3), d: fc.constantFrom(1, 1, 2, 3), p: fc.tuple(fc.nat(3), fc.nat(3)) })
  .filter(({ size, k, d, p: [a, b] }) => size + a + b > d * (k - 1));
const cases = fc.record({ axes: fc.oneof(fc.tuple(axis), fc.tuple(axis, axis)), N: fc.constantFrom(1, 2), G: fc.constantFrom(1, 2), D: fc.constantFrom(1, 2, 3), O: fc.constantFrom(1, 2), seed: fc.nat(1000) })
  .map(({ axes, N, G, D, O, seed }) => {
    const options: ConvolutionOptions = { stride: axes.map((a) => a.s), dilation: axes.map((a) => a.d), padding: axes.map((a) => a.p), groups: G };
    return { axes: [...axes], G, D, O: O * G, seed, options, x: draw(seed, [N, D * G, ...axes.map((a) => a.size)]), w: draw(seed + 1, [O * G, D, ...axes.map((a) => a.k)]), b: draw(seed + 2, [O * G]) };
  });
/** f64 on the grid k/16. */
function draw(seed: number, shape: readonly number[]): HostArray {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return { dtype: "f64", shape, data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return ((state >>> 8) % 65 - 32) / 16; }) };
}
const f32 = (h: HostArray): Tensor => fromHost({ ...h, dtype: "f32", data: Float32Array.from(h.data) });
const close = (got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void => {
  expect(got.length).toBe(want.length);
  for (let i = 0; i < got.length; i++) if (!(Math.abs(got[i] - want[i]) <= tolerance * (1 + Math.abs(want[i])))) expect.fail(`element ${i}: ${got[i]} and ${want[i]}`);
};

/** The definition, one number at a time. */
function loops(x: HostArray, w: HostArray, b: HostArray, axes: readonly Axis[], G: number): number[] {
  const two: Axis[] = axes.length === 2 ? [...axes] : [{ size: 1, k: 1, s: 1, d: 1, p: [0, 0] }, ...axes], [h, v] = two, [N, C] = x.shape, [O, D] = w.shape, y: number[] = [];
  const out = two.map((a) => Math.floor((a.size + a.p[0] + a.p[1] - a.d * (a.k - 1) - 1) / a.s) + 1);
  for (let n = 0; n < N; n++) for (let o = 0; o < O; o++) for (let i = 0; i < out[0]; i++) for (let j = 0; j < out[1]; j++) {
    let sum = b.data[o];
    for (let c = 0; c < D; c++) for (let k = 0; k < h.k; k++) for (let l = 0; l < v.k; l++) {
      const r = i * h.s + k * h.d - h.p[0], t = j * v.s + l * v.d - v.p[0], channel = Math.floor(o / (O / G)) * D + c;
      if (r >= 0 && r < h.size && t >= 0 && t < v.size) sum += w.data[((o * D + c) * h.k + k) * v.k + l] * x.data[((n * C + channel) * h.size + r) * v.size + t];
    }
    y.push(sum);
  }
  return y;
}

describe("convolve", () => {
  it("is its definition, in f64 and on wasm, and its gradients are differences", () => fc.assert(fc.asyncProperty(cases, async ({ axes, G, options, x, w, b }) => {
    const want = loops(x, w, b, axes, G), f = (...[x, w, b]: Tensor[]): Tensor => convolve(x, w, b, options);
    const [got] = await evaluate([f(fromHost(x), fromHost(w), fromHost(b))], plain);
    close(got, want, 1e-12);
    await checkGradient(f, [x, w, b]);
    const leaves = [x, w, b].map(f32), y = f(...leaves), dy = f32(draw(7, y.shape)), all = [y, ...gradients(y.mul(dy).sum(), leaves).map((g) => g ?? y)];
    const wide = [x, w, b].map(fromHost), exact = await evaluate(gradients(f(...wide).mul(dy.cast("f64")).sum(), wide).map((g) => g ?? y), plain);
    for (const device of [fused, wasm]) (await evaluate(all, device)).forEach((row, i) => { close(row, i === 0 ? want : exact[i - 1], 1e-5); });
  }), { numRuns: runs }));
  it("has gradients of its gradients", () => fc.assert(fc.asyncProperty(cases, async ({ options, x, w, b }) => { await checkGradient((...[x, w, b]) => convolve(x.tanh(), w, b, options), [x, w, b], { order: 2 }); }), { numRuns: Math.ceil(runs / 4) }));
  it("is linear in x and in the weight", () => fc.assert(fc.asyncProperty(cases, async ({ options, x, w, seed }) => {
    const [a, b, u, v] = [fromHost(x), fromHost(draw(seed, x.shape)), fromHost(w), fromHost(draw(seed + 1, w.shape))], f = (x: Tensor, w: Tensor): Tensor => convolve(x, w, null, options);
    const [left, right] = await evaluate([f(a.mul(2).add(b), u.sub(v)), f(a, u).mul(2).add(f(b, u)).sub(f(a, v).mul(2)).sub(f(b, v))], plain);
    close(left, right, 1e-12);
  }), { numRuns: runs }));
  it("in groups is the convolution of each group alone; a stride skips outputs; a dilation is a kernel with zeros between", () => fc.assert(fc.asyncProperty(cases, async ({ axes, G, D, O, options, x, w }) => {
    const t = fromHost(x), u = fromHost(w), f = (o: ConvolutionOptions, x = t, w = u): Tensor => convolve(x, w, null, { ...options, ...o });
    const want = f({}), n = want.shape.slice(2);
    const alone = Array.from({ length: G }, (_, g) => f({ groups: 1 }, t.slice(1, g * D, (g + 1) * D), u.slice(0, (g * O) / G, ((g + 1) * O) / G)));
    const every = f({ stride: 1 }), picked = n.map((d, i) => Array.from({ length: d }, (_, j) => j * axes[i].s)), sparse = axes.map((a) => a.d * (a.k - 1) + 1);
    const [got, steps, ...parts] = await evaluate([want, every, ...alone], plain), per = n.reduce((a, b) => a * b, 1) * (O / G), N = x.shape[0];
    parts.forEach((part, g) => { for (let i = 0; i < N; i++) close(part.slice(i * per, (i + 1) * per), got.slice((i * G + g) * per, (i * G + g + 1) * per), 1e-12); });
    const m = every.shape.slice(2), at = picked.length === 1 ? picked[0] : picked[0].flatMap((r) => picked[1].map((c) => r * m[1] + c)), area = m.reduce((a, b) => a * b, 1);
    close(Array.from({ length: N * O }, (_, i) => at.map((p) => steps[i * area + p])).flat(), got, 1e-12);
    const stuffed = { dtype: "f64" as const, shape: [O, D, ...sparse], data: new Float64Array(O * D * sparse.reduce((a, b) => a * b, 1)) }, ks = axes.map((a) => a.k), taps = ks.reduce((a, b) => a * b, 1);
    w.data.forEach((value, i) => {
      const tap = i % taps, where = ks.length === 1 ? tap * axes[0].d : Math.floor(tap / ks[1]) * axes[0].d * sparse[1] + (tap % ks[1]) * axes[1].d;
      stuffed.data[Math.floor(i / taps) * sparse.reduce((a, b) => a * b, 1) + where] = Number(value);
    });
    close((await evaluate([f({ dilation: 1 }, t, fromHost(stuffed))], plain))[0], got, 1e-12);
  }), { numRuns: runs }));
  it("follows a shift of x inside, and keeps the size with padding \"same\"", () => fc.assert(fc.asyncProperty(fc.constantFrom(1, 2, 3, 4), fc.constantFrom(1, 2), fc.nat(99), async (k, d, seed) => {
    const long = fromHost(draw(seed, [1, 2, 12])), w = fromHost(draw(seed + 1, [3, 2, k])), f = (x: Tensor): Tensor => convolve(x, w, null, { dilation: d });
    const [a, b] = await evaluate([f(long.slice(2, 2, 12)), f(long).slice(2, 2)], plain), same = convolve(long, w, null, { dilation: d, padding: "same" });
    close(a, b, 1e-12);
    expect(same.shape).toEqual([1, 3, 12]);
    const before = Math.floor((d * (k - 1)) / 2), [whole, inner] = await evaluate([same.slice(2, before, before + 12 - d * (k - 1)), f(long)], plain);
    close(whole, inner, 1e-12);
  }), { numRuns: runs }));
});

describe("the plan", () => {
  const zeros = (...shape: number[]): Tensor => store(tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), { shape })).current;
  const kinds = (...ts: Tensor[]): string[] => { setDevice(fused); return planOf(ts).spec.kernels.map((k) => k.kind); };
  it("of a pointwise kernel is one product", () => {
    expect(kinds(convolve(zeros(2, 6, 5, 4), zeros(8, 6, 1, 1), zeros(8)))).toEqual(["contract"]);
    expect(kinds(convolve(zeros(2, 6, 5), zeros(8, 3, 1), null, { groups: 2 }))).toEqual(["contract"]);
  });
  it("of any other has one product and one gather, for all kernels and paddings; an adapter of the same geometry reads the same windows", () => {
    const x = zeros(2, 4, 9, 8), w = zeros(8, 4, 5, 3), options = { stride: 2, padding: 1 }, y = convolve(x, w, zeros(8), options), all = kinds(y);
    expect(all.filter((k) => k === "contract" || k === "gather").sort()).toEqual(["contract", "gather"]);
    expect(all.length).toBeLessThanOrEqual(6);
    const low = kinds(y.add(convolve(convolve(x, zeros(2, 4, 5, 3), null, options), zeros(8, 2, 1, 1))));
    expect(low.filter((k) => k === "gather")).toHaveLength(1);
    expect(low.filter((k) => k === "contract")).toHaveLength(3);
  });
  it("of a depthwise kernel reads padded x in place: one formula, no windows", () => {
    expect(kinds(convolve(zeros(2, 4, 9), zeros(4, 1, 4), null, { groups: 4 }))).toEqual(["map"]);
    expect(kinds(convolve(zeros(2, 4, 9), zeros(4, 1, 4), zeros(4), { groups: 4, padding: [[3, 0]] }))).toEqual(["map", "map", "map"]);
  });
  it("of a backward pass scatters nothing, and a frozen weight costs no gradient", () => {
    const x = store(tensor(new Float32Array(2 * 4 * 9 * 8), { shape: [2, 4, 9, 8] })), w = store(tensor(new Float32Array(8 * 4 * 9), { shape: [8, 4, 3, 3] })), loss = (): Tensor => convolve(x, w, null, { stride: 2, padding: 1 }).square().sum();
    const both = gradients(loss(), { x, w }), frozen = gradients(loss(), { x });
    const count = (...ts: (Tensor | null)[]): number[] => { const k = kinds(...ts.filter((t) => t !== null)); return ["contract", "gather", "scatterAdd"].map((kind) => k.filter((x) => x === kind).length); };
    expect(count(both.x, both.w)).toEqual([3, 3, 0]);
    expect(count(frozen.x)).toEqual([2, 2, 0]);
  });
});

describe("Conv1d and Conv2d", () => {
  const { convolutions } = golden<{ convolutions: Record<string, Record<string, unknown>> }>("layers"), tensors = goldenTensors("layers");
  beforeEach(() => { setDevice(wasm); });
  it.each(Object.entries(convolutions))("%s is torch's, with its gradients", async (name, { bias, ...options }) => {
    const of = (key: string): HostArray => tensors.get(`${name}/${key}`) ?? expect.fail(key), w = store(of("weight"), "weight"), b = bias === false ? null : store(of("bias"), "bias"), x = store(of("x"));
    const layer = new (w.rank === 3 ? Conv1d : Conv2d)(w, b, options), leaves = { x, weight: w, ...(b ? { bias: b } : {}) };
    const y = layer.forward(x), g = gradients(y.mul(fromHost(of("v"))).sum(), leaves);
    expect(y.shape).toEqual(of("y").shape);
    const values = await Promise.all([y, ...Object.values(g)].map((t) => t?.data() ?? expect.fail("no gradient")));
    [of("y"), ...Object.keys(leaves).map((k) => of(`grad/${k}`))].forEach((want, i) => { close(values[i], Array.from(want.data, Number), 2e-5); });
  });
  it("shows an adapter its input and output, and what it needs to run beside the layer", async () => {
    const w = store(tensor(Float32Array.from({ length: 4 * 3 * 3 }, (_, i) => i % 5), { shape: [4, 3, 3] })), layer = new Conv1d(w, null, { stride: 2, padding: [[1, 0]], dilation: 2, groups: 2 }), x = f32(draw(1, [1, 6, 9]));
    expect([layer.inChannels, layer.outChannels, layer.kernelSize, layer.stride, layer.padding, layer.dilation, layer.groups]).toEqual([6, 4, [3], [2], [[1, 0]], [2], 2]);
    const y = layer.forward(x, { adapter: { output: (module, input, y) => (module === layer && input === x ? y.add(convolve(input, w, null, layer.geometry)) : y) } });
    expect(await y.data()).toEqual(await layer.forward(x).mul(2).data());
    expect(await layer.forward(x, { adapter: null }).data()).toEqual(await convolve(x, w, null, layer.geometry).data());
  });
  it("computes half-precision weights in f32", async () => {
    for (const [D, groups] of [[2, 1], [1, 2]]) for (const dtype of ["f16", "bf16"] as const) {
      const w = f32(draw(3, [4, D, 3])), x = f32(draw(4, [2, 2, 6])), options = { padding: 1, groups }, b = f32(draw(5, [4])), want = convolve(x, w, b, options);
      const y = new Conv1d(store(await w.cast(dtype).host()), store(await b.cast(dtype).host()), options).forward(x);
      expect(y.dtype).toBe("f32");
      close(await y.data(), await want.data(), 1e-6);
    }
  });
  it("says what does not fit, and how to mend it", () => {
    const w = tensor(new Float32Array(24), { shape: [4, 2, 3] }), x = tensor(new Float32Array(24), { shape: [2, 4, 3] });
    expect(() => new Conv2d(w)).toThrow("[out, in / groups, kh, kw], got [4, 2, 3]");
    expect(() => new Conv1d(w, store(tensor([1, 2])))).toThrow("a bias of 4 numbers");
    expect(() => new Conv1d(w, null, { groups: 3 })).toThrow("do not fall into 3 groups");
    expect(() => convolve(x, w)).toThrow("did you mean groups: 2?");
    expect(() => convolve(x.slice(2, 0, 2), w, null, { groups: 2 })).toThrow("larger than the padded input");
    expect(() => convolve(x.reshape([8, 3]), w)).toThrow("x.unsqueeze(0)");
    expect(() => convolutionGeometry([3], JSON.parse('{"paddingMode":"reflect"}'))).toThrow('paddingMode "reflect" is not implemented');
    expect(() => convolutionGeometry([3], JSON.parse('{"padding":"full"}'))).toThrow('padding is "full"');
    expect(() => convolutionGeometry([3], { padding: "same", stride: 2 })).toThrow("stride 1");
    expect(() => convolutionGeometry([3], JSON.parse('{"strides":2}'))).toThrow("strides is not an option");
    expect(() => convolutionGeometry([3], { stride: 0 })).toThrow("stride is 0");
    expect(() => convolutionGeometry([3, 3], { dilation: [1] })).toThrow("dilation is [1]");
    expect(() => convolutionGeometry([3], { padding: [-1] })).toThrow("padding is [-1]");
    expect(convolutionGeometry([4, 3], { padding: "same", dilation: [1, 2] }).padding).toEqual([[1, 2], [2, 2]]);
  });
});
