/** LoRA with a bias on B: y = W x + s (B A x + b), as PEFT's `lora_bias` has it. */
import { ConfigError, type HostArray, hostUniform, type Shape } from "@adjoint/tensor";
import type { AdapterMethod, Site } from "../adapter.ts";
import { type Layer, loraOn, widened, zerosOf } from "./layer.ts";

/** LoRA on a kind of layer, with s b added to its outputs; merging adds it to the layer's bias. */
export function loraWithBiasOn(layer: Layer): AdapterMethod {
  const plain = loraOn(layer), bias = (site: Site): Shape => [site.outFeatures];
  return {
    name: "lora with bias",
    shapes(site, config) {
      if (site.kind === "embedding") throw new ConfigError(`${site.path} is an embedding, and lora_bias has no place beside one`, { key: "lora_bias", value: true, fix: "set lora_bias to false, or list it in exclude_modules" });
      return { ...layer.shapes(site, config), biasB: bias(site) };
    },
    init(site, config, seed): Readonly<Record<string, HostArray>> {
      const factors = layer.init(site, config, seed), bound = 1 / Math.sqrt(factors.B.shape[1]);
      return { ...factors, biasB: config.initLoraWeights === false ? hostUniform(seed, `lora/init/${site.path}/biasB`, bias(site), { low: -bound, high: bound }) : zerosOf(bias(site)) };
    },
    forward: (p, site, use) => plain.forward(p, site, use).add(p.biasB.mul(site.scale).reshape(layer.perOutput(site).output)),
    merged(p, site, frozen) {
      if (frozen.bias === undefined) throw new ConfigError(`${site.path} has no bias that could take up lora_bias`, { op: "merge", key: site.path, fix: "keep the adapter beside the model" });
      return { ...plain.merged(p, site, frozen), bias: widened(frozen.bias).add(p.biasB.mul(site.scale)) };
    },
  };
}
