/** LoRA with a bias on B. */
import { describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { Embedding, Linear } from "@adjoint/nn";
import { ConfigError, hostNormal, store, type Tensor, tensor } from "@adjoint/tensor";
import { foldScale, lora, loraConfig, type LoraOptions, readLoraConfig, writeLoraConfig } from "../src/index.ts";

const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())]);
const options: LoraOptions = { r: 2, loraAlpha: 3, loraBias: true, targetModules: ["layer"] };
const layerOf = (bias: boolean): Linear => new Linear(store(hostNormal(1, "w", [3, 4])), bias ? store(hostNormal(1, "b", [3])) : null);
const x: Tensor = tensor(hostNormal(1, "x", [5, 4]).data, { shape: [5, 4] });

describe("lora_bias", () => {
  it("adds s b: db = s Σ g; merging adds it to the layer's bias, and is refused without one", async () => {
    for (const biased of [true, false]) {
      const layer = layerOf(biased), tuned = lora({ layer }, options), base = await numbers(layer.forward(x));
      expect(await numbers(layer.forward(x, tuned.context()))).toEqual(base);
      for (const [key, s] of tuned.tensors()) s.set(hostNormal(4, key, s.shape));
      const y = layer.forward(x, tuned.context()), b = tuned.tensors().get("base_model.model.layer.lora_B.bias");
      if (b === undefined) throw new Error("no bias");
      expect(await numbers(gradients(y.sum(), [b])[0])).toEqual([7.5, 7.5, 7.5]);
      if (!biased) { await expect(tuned.merge()).rejects.toThrow(/layer has no bias/); continue; }
      const before = await numbers(layer.forward(x, tuned.context()));
      await tuned.merge();
      (await numbers(layer.forward(x))).forEach((v, i) => { expect(v).toBeCloseTo(before[i], 5); });
    }
  });
  it("takes the scale into B and b together", async () => {
    const layer = layerOf(true), tuned = lora({ layer }, options);
    for (const [key, s] of tuned.tensors()) s.set(hostNormal(4, key, s.shape));
    const folded = await foldScale(tuned), y = await numbers(layer.forward(x, tuned.context()));
    expect(folded.targets.targets[0].scale).toBe(1);
    (await numbers(layer.forward(x, folded.context()))).forEach((v, i) => { expect(v).toBeCloseTo(y[i], 5); });
  });
  it("starts at zero, or where torch's layers start", async () => {
    const bias = async (initLoraWeights: boolean): Promise<number[]> => numbers(lora({ layer: layerOf(true) }, { ...options, initLoraWeights }).tensors().get("base_model.model.layer.lora_B.bias") ?? null);
    expect(await bias(true)).toEqual([0, 0, 0]);
    const drawn = await bias(false);
    expect(drawn.every((v) => v !== 0 && Math.abs(v) <= Math.SQRT1_2)).toBe(true);
  });
  it("does not go with DoRA, with other initialisations, or with embeddings", () => {
    for (const [other, key] of [[{ useDora: true }, "loraBias"], [{ initLoraWeights: "gaussian" }, "loraBias"], [{ initLoraWeights: "pissa" }, "loraBias"]] as const) {
      expect(() => loraConfig({ ...options, ...other })).toThrow(expect.objectContaining({ details: expect.objectContaining({ key }) }));
    }
    expect(() => lora({ layer: new Embedding(store(hostNormal(1, "e", [3, 4]))) }, options)).toThrow(ConfigError);
  });
  it("is in the config's file, as use_dora is", () => {
    for (const o of [{ loraBias: true }, { useDora: true }] satisfies LoraOptions[]) expect(readLoraConfig(writeLoraConfig(loraConfig(o))).config).toEqual({ ...loraConfig(o), inferenceMode: true });
    expect(() => readLoraConfig(writeLoraConfig(loraConfig({})).replace('"lora_bias": false', '"lora_bias": 1'))).toThrow(/lora_bias/);
  });
});
