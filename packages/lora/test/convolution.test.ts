/** LoRA and DoRA on convolutions of every geometry, and what cannot be. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { Conv1d, Conv2d, type Context } from "@adjoint/nn";
import { ConfigError, hostNormal, type HostArray, hostArray, store, type Store, type Tensor } from "@adjoint/tensor";
import { lora, loraConfig, type LoraOptions, methodOf, type Tuned } from "../src/index.ts";

const numRuns = Number(process.env["ADJOINT_RUNS"] ?? 8);
const f64 = ({ shape, data }: HostArray): HostArray => { const out = hostArray("f64", data.length); data.forEach((v, i) => { out[i] = Math.round(v * 16) / 16; }); return { dtype: "f64", shape, data: out }; };
const random = (seed: number, name: string, shape: readonly number[]): Store => store(f64(hostNormal(seed, name, shape)), name);
const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())]);
async function close(a: Tensor, b: Tensor): Promise<void> {
  const [x, y] = [await numbers(a), await numbers(b)];
  expect(a.shape).toEqual(b.shape);
  x.forEach((v, i) => { expect(Math.abs(v - y[i])).toBeLessThan(1e-9 * (1 + Math.abs(y[i]))); });
}

interface Shape { readonly axes: 1 | 2; readonly inChannels: number; readonly out: number; readonly kernel: number; readonly stride: number; readonly padding: number; readonly dilation: number; readonly groups: number; readonly bias: boolean }
type Net = { readonly layer: Conv1d | Conv2d; forward(x: Tensor, context?: Context): Tensor };
function netOf(s: Shape, seed = 1): { net: Net; x: Store } {
  const positions = s.axes === 1 ? [9] : [7, 8], weight = random(seed, "w", [s.out, s.inChannels / s.groups, ...positions.map(() => s.kernel)]), bias = s.bias ? random(seed, "b", [s.out]) : null;
  const layer = new (s.axes === 1 ? Conv1d : Conv2d)(weight, bias, { stride: s.stride, padding: s.padding, dilation: s.dilation, groups: s.groups });
  return { net: { layer, forward: (x, context = {}) => layer.forward(x, context) }, x: random(seed, "x", [2, s.inChannels, ...positions]) };
}
function tunedOf(s: Shape, options: LoraOptions): { tuned: Tuned<Net>; x: Store } {
  const { net, x } = netOf(s), tuned = lora(net, { r: 2, loraAlpha: 3, targetModules: ["layer"], ...options });
  for (const [key, t] of tuned.tensors()) t.set(f64(hostNormal(7, key, t.shape, { mean: key.endsWith("vector") ? 2 : 0, std: 0.5 })));
  return { tuned, x };
}
const shapes: fc.Arbitrary<Shape> = fc.record({ axes: fc.constantFrom(1, 2), inChannels: fc.constantFrom(2, 4), out: fc.constantFrom(2, 4), kernel: fc.constantFrom(1, 2, 3), stride: fc.constantFrom(1, 2), padding: fc.constantFrom(0, 1), dilation: fc.constantFrom(1, 2), groups: fc.constant(1), bias: fc.boolean() });
const one: Shape = { axes: 2, inChannels: 4, out: 4, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 2, bias: true };

describe("adapters of convolutions", () => {
  it("start as the layer and equal the merged layer, dilated and strided too: LoRA, DoRA, a bias on B", async () => {
    await fc.assert(fc.asyncProperty(shapes, fc.constantFrom<LoraOptions>({}, { useDora: true }, { loraBias: true }), async (s, options) => {
      fc.pre(s.bias || options.loraBias !== true);
      const { net, x } = netOf(s);
      await close(lora(net, { r: 2, targetModules: ["layer"], ...options }).forward(x), net.forward(x));
      const { tuned } = tunedOf(s, options), y = await numbers(tuned.forward(x));
      await tuned.merge();
      const merged = await numbers(tuned.base.forward(x));
      merged.forEach((v, i) => { expect(Math.abs(v - y[i])).toBeLessThan(1e-9 * (1 + Math.abs(v))); });
      expect(await numbers(net.forward(x))).not.toEqual(merged);
    }), { numRuns });
  });

  it("have the gradients of the merged layer, by the chain rule through W + s B A", async () => {
    await fc.assert(fc.asyncProperty(shapes, async (s) => {
      const { tuned, x } = tunedOf(s, {}), [{ site, factors: { A, B } }] = tuned.attachments, { layer } = tuned.base, y = tuned.forward(x), g = random(3, "g", y.shape);
      const d = gradients(y.mul(g).sum(), { A, B, x }), W = layer.weight, dW = gradients(layer.forward(x).mul(g).sum(), [W])[0];
      if (dW === null || d.A === null || d.B === null) throw new Error("no gradient");
      const flat = dW.reshape([site.outFeatures, site.inFeatures]).mul(site.scale);
      await close(d.A, B.reshape([site.outFeatures, site.r]).T.matmul(flat).reshape(A.shape));
      await close(d.B, flat.matmul(A.reshape([site.r, site.inFeatures]).T).reshape(B.shape));
    }), { numRuns });
  });

  it("with groups: A reads all channels, so it trains and is not merged; the rank must fall into the groups, and DoRA is refused", async () => {
    const { tuned, x } = tunedOf(one, {}), y = tuned.forward(x), d = gradients(y.square().sum(), [...tuned.tensors().values()]);
    expect([...tuned.tensors().values()].map((t) => t.shape)).toEqual([[2, 4, 3, 3], [4, 1, 1, 1]]);
    for (const g of d) expect((await numbers(g)).some((v) => v !== 0)).toBe(true);
    await expect(tuned.merge()).rejects.toThrow(/layer is a convolution with 2 groups.*no place/s);
    expect(() => lora(netOf(one).net, { r: 3, targetModules: ["layer"] })).toThrow(expect.objectContaining({ details: expect.objectContaining({ key: "r", value: 3 }) }));
    expect(() => lora(netOf(one).net, { r: 2, targetModules: ["layer"], useDora: true })).toThrow(expect.objectContaining({ details: expect.objectContaining({ key: "use_dora" }) }));
    expect(() => methodOf(loraConfig({ initLoraWeights: "orthogonal" }), "conv")).toThrow(/not for convolutions/);
  });

  it("draw A within 1 / sqrt(channels · kernel), and are no linear layers", () => {
    const tuned = lora(netOf({ ...one, groups: 1 }).net, { r: 4, targetModules: ["layer"] }), [A] = [...tuned.tensors().values()];
    const top = Math.max(...Array.from(A.dataSync(), Math.abs));
    expect(top).toBeLessThanOrEqual(1 / 6);
    expect(top).toBeGreaterThan(0.9 / 6);
    expect(tuned.summary()).toMatch(/^LoRA: 0 of 0 linear layers, 1 convolutions/);
    expect(() => lora(netOf(one).net, { targetModules: "all-linear" })).toThrow(ConfigError);
  });
});
