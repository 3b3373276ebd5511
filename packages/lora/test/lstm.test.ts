/** LoRA and DoRA on the weights of an LSTM: as the layer with the merged weights, forward and backward. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { LSTM, type Context } from "@adjoint/nn";
import { ConfigError, hostNormal, type HostArray, hostArray, store, type Store, type Tensor } from "@adjoint/tensor";
import { loadLora, lora, loraConfig, type LoraOptions, methodOf, type Tuned } from "../src/index.ts";

const f64 = ({ shape, data }: HostArray): HostArray => { const out = hostArray("f64", data.length); data.forEach((v, i) => { out[i] = v; }); return { dtype: "f64", shape, data: out }; };
const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())]);
const close = (a: readonly number[], b: readonly number[], bound = 1e-9): void => { expect(a.length).toBe(b.length); a.forEach((v, i) => { expect(Math.abs(v - b[i])).toBeLessThan(bound * (1 + Math.abs(b[i]))); }); };

const shapes: Readonly<Record<string, readonly number[]>> = Object.fromEntries(["l0", "l0_reverse"].flatMap((s) => [[`weight_ih_${s}`, [8, 3]], [`weight_hh_${s}`, [8, 2]], [`bias_ih_${s}`, [8]], [`bias_hh_${s}`, [8]]]));
interface Net { readonly lstm: LSTM; forward(x: Tensor, context?: Context): Tensor }
function net(): Net {
  const lstm = new LSTM(Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, store(f64(hostNormal(1, name, shape, { std: 0.5 })), name)])));
  return { lstm, forward: (x, context = {}) => lstm.forward(x, context).y };
}
const x: Store = store(f64(hostNormal(2, "x", [4, 2, 3])));
const targets = ["lstm.weight_ih_l0", "weight_hh_l0_reverse"];
function tunedOf(options: LoraOptions): Tuned<Net> {
  const tuned = lora(net(), { r: 2, loraAlpha: 3, targetModules: targets, ...options });
  for (const [key, t] of tuned.tensors()) t.set(f64(hostNormal(7, key, t.shape, { mean: key.endsWith("vector") ? 2 : 0, std: 0.3 })));
  return tuned;
}

describe.each<[string, LoraOptions]>([["LoRA", {}], ["DoRA", { useDora: true }]])("%s on weights of an LSTM", (_, options) => {
  it("starts as the layer; attached equals merged, which goes back bit for bit", async () => {
    const model = net(), base = await numbers(model.forward(x));
    close(await numbers(lora(model, { r: 2, targetModules: targets, ...options }).forward(x)), base, 1e-12);
    const tuned = tunedOf(options), y = await numbers(tuned.forward(x)), was = await numbers(tuned.base.lstm.weight_ih_l0);
    expect(y).not.toEqual(base);
    await tuned.merge();
    expect(await numbers(tuned.base.lstm.weight_ih_l0)).not.toEqual(was);
    close(await numbers(tuned.base.forward(x)), y);
    await tuned.unmerge();
    expect(await numbers(tuned.base.lstm.weight_ih_l0)).toEqual(was);
    expect(await numbers(tuned.forward(x))).toEqual(y);
  });

  it("has the gradients of the merged weight by the chain rule: with g' = c ∘ dW, dB = s g' Aᵀ, dA = s Bᵀ g', dm = rowsum(dW ∘ V) / n", async () => {
    const tuned = tunedOf(options), [{ site: { scale }, factors: { A, B, magnitude } }] = tuned.attachments, loss = (y: Tensor): Tensor => y.square().sum();
    const d = gradients(loss(tuned.forward(x)), [...tuned.tensors().values()]), ours = await Promise.all(d.map(numbers));
    const V = tuned.base.lstm.weight_ih_l0.add(B.matmul(A).mul(scale)), n = V.square().sum(1).sqrt(), c = options.useDora === true ? magnitude.unsqueeze(1).div(n) : n.mul(0).add(1);
    const before = await Promise.all([V.mul(1).data(), c.mul(1).data(), n.mul(1).data()]);
    const [v, cs, ns] = before.map((data, i) => store({ dtype: "f64", shape: i === 0 ? [8, 3] : [8, 1], data: Float64Array.from(data) }));
    await tuned.merge();
    const [dW] = gradients(loss(tuned.base.forward(x)), [tuned.base.lstm.weight_ih_l0]);
    if (dW === null) throw new Error("no gradient");
    const G = cs.mul(dW);
    close(ours[0], await numbers(B.T.matmul(G).mul(scale)));
    close(ours[1], await numbers(G.matmul(A.T).mul(scale)));
    if (options.useDora === true) close(ours[2], await numbers(dW.mul(v).sum(1).div(ns)));
    for (const g of ours) expect(g.some((value) => value !== 0)).toBe(true);
  });

  it("names tensors after the parameters, and reads what it wrote", async () => {
    const tuned = tunedOf(options), directory = await mkdtemp(join(tmpdir(), "adjoint-lstm-"));
    expect([...tuned.tensors().keys()].filter((k) => k.includes("lora_A"))).toEqual(["base_model.model.lstm.weight_ih_l0.lora_A.weight", "base_model.model.lstm.weight_hh_l0_reverse.lora_A.weight"]);
    await tuned.save(directory);
    const { tuned: again } = await loadLora(net(), directory);
    close(await numbers(again.forward(x)), await numbers(tuned.forward(x)), 1e-6); // files hold f32
    await rm(directory, { recursive: true, force: true });
  });
});

describe("what does not go with the weights of an LSTM", () => {
  it.each<[LoraOptions, string]>([[{ loraDropout: 0.1 }, "lora_dropout"], [{ loraBias: true }, "lora_bias"], [{ targetModules: ["lstm"] }, "target_modules"], [{ targetModules: ["weight_ih_l1"] }, "target_modules"]])("%j", (options, key) => {
    expect(() => lora(net(), { r: 2, targetModules: targets, ...options })).toThrow(expect.objectContaining({ name: ConfigError.name, details: expect.objectContaining({ key }) }));
  });
  it("initialisations that look at a layer's numbers", () => {
    expect(() => methodOf(loraConfig({ initLoraWeights: "orthogonal" }), "lstm")).toThrow(/not for the weights of an LSTM/);
  });
  it("is counted apart from linear layers", () => {
    expect(lora(net(), { r: 2, targetModules: targets }).summary()).toMatch(/^LoRA: 0 of 0 linear layers, 2 weights of LSTMs/);
  });
});
