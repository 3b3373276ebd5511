/** The modules of the tiny Llama fixtures. */
import type { ModuleInfo } from "../src/index.ts";

const linear = (path: string, inFeatures: number, outFeatures: number): ModuleInfo => ({ path, kind: "linear", inFeatures, outFeatures });

export const llamaModules: readonly ModuleInfo[] = [
  { path: "model.embed_tokens", kind: "embedding", inFeatures: 61, outFeatures: 16 },
  ...[0, 1].flatMap((i) => [
    linear(`model.layers.${i}.self_attn.q_proj`, 16, 16),
    linear(`model.layers.${i}.self_attn.k_proj`, 16, 8),
    linear(`model.layers.${i}.self_attn.v_proj`, 16, 8),
    linear(`model.layers.${i}.self_attn.o_proj`, 16, 16),
    linear(`model.layers.${i}.mlp.gate_proj`, 16, 40),
    linear(`model.layers.${i}.mlp.up_proj`, 16, 40),
    linear(`model.layers.${i}.mlp.down_proj`, 40, 16),
    { path: `model.layers.${i}.input_layernorm`, kind: "other" as const },
  ]),
  { path: "lm_head", kind: "linear", inFeatures: 16, outFeatures: 61, isOutputHead: true },
];
