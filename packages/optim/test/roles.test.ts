/** Roles of parameters and groups made of them; LoRA+ gives each parameter PEFT's rate and decay. */
import { ConfigError, fromHost, store } from "@adjoint/tensor";
import { describe, expect, it } from "vitest";
import { adamw, byRole, constantWithWarmup, isEmbeddingTable, isOutputHead, loraPlus, matches, roleOf, roles, rulesOf, sgd, type Role } from "@adjoint/optim";
import { golden } from "@adjoint/testing/fixtures";

interface Param { readonly name: string; readonly shape: number[]; readonly group: number; readonly lr: number; readonly weight_decay: number }
interface Case { readonly case: string; readonly options: { loraplus_lr_ratio: number; loraplus_lr_embedding?: number; loraplus_weight_decay?: number }; readonly lr: number; readonly params: Param[] }
const { cases } = golden<{ cases: Case[] }>("loraplus");

const names: Readonly<Record<Role, readonly string[]>> = {
  adapterA: ["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "x.lora_A.default.weight", "lora_A.weight"],
  adapterB: ["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "x.lora_B.other.weight"],
  magnitude: ["base_model.model.model.layers.1.mlp.up_proj.lora_magnitude_vector", "x.lora_magnitude_vector.default.weight"],
  embedding: ["base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.model.embed_tokens.lora_embedding_B.default", "model.embed_tokens.weight", "transformer.wte.weight", "transformer.wpe.weight"],
  norm: ["model.norm.weight", "model.layers.3.input_layernorm.weight", "model.layers.0.self_attn.q_norm.weight", "transformer.h.0.ln_1.weight", "transformer.ln_f.weight", "base_model.model.model.norm.modules_to_save.default.weight"],
  bias: ["transformer.h.0.attn.c_attn.bias", "transformer.ln_f.bias", "x.lora_B.default.bias", "base_model.model.score.modules_to_save.default.bias"],
  saved: ["base_model.model.score.weight", "base_model.model.lm_head.modules_to_save.default.weight", "base_model.model.model.embed_tokens.modules_to_save.default.weight"],
  weight: ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight", "transformer.h.0.mlp.c_fc.weight", "W"],
};

describe("roles", () => {
  for (const role of roles) it(role, () => { expect(names[role].map((n) => [n, roleOf(n)])).toEqual(names[role].map((n) => [n, role])); });
  it("an embedding's table is the embedding itself or its copy, not a factor on it", () => {
    const tables = ["model.embed_tokens.weight", "transformer.wte.weight", "wpe.weight", "base_model.model.model.embed_tokens.weight", "x.embed_tokens.modules_to_save.weight", "x.embed_tokens.modules_to_save.default.weight"];
    const others = ["x.embed_tokens.lora_embedding_A", "x.embed_tokens.lora_A.weight", "x.embed_tokens.token_adapter.trainable_tokens_delta", "lm_head.weight", "x.embed_tokens.bias", "q_proj.modules_to_save.default.weight", "embed_tokens"];
    expect([...tables, ...others].map((n) => [n, isEmbeddingTable(n)])).toEqual([...tables.map((n) => [n, true]), ...others.map((n) => [n, false])]);
  });
  it("an output head is the matrix that makes logits, or its copy", () => {
    expect(["lm_head.weight", "base_model.model.lm_head.modules_to_save.default.weight", "score.weight", "lm_head.bias", "lm_head.lora_A.weight", "q_proj.weight"].map(isOutputHead)).toEqual([true, true, true, false, false, false]);
  });
  it("a group may ask for one, or several", () => {
    expect(matches({ role: "norm" }, "model.norm.weight")).toBe(true);
    expect(matches({ role: ["bias", "norm"] }, "a.bias")).toBe(true);
    expect(matches({ role: ["bias", "norm"] }, "a.lora_A.weight")).toBe(false);
  });
});

describe("LoRA+", () => {
  for (const { case: name, options, lr, params } of cases) {
    it(`gives every parameter PEFT's rate and decay: ${name}`, () => {
      const { loraplus_lr_ratio: ratio, loraplus_lr_embedding, loraplus_weight_decay: weightDecay = 0 } = options;
      const plus = loraPlus({ learningRate: lr, ratio, weightDecay, ...(loraplus_lr_embedding === undefined ? {} : { embeddingLearningRate: loraplus_lr_embedding }) });
      const rules = rulesOf("test", { ...plus, weightDecay });
      rules.check(params.map((p) => p.name));
      expect(params.length).toBeGreaterThan(1);
      for (const p of params) {
        expect([p.name, rules.of(p.name)(0)]).toEqual([p.name, p.lr]);
        expect([p.name, rules.decay(p.name)]).toEqual([p.name, p.weight_decay]);
      }
    });
  }
  it("all rates follow one schedule", () => {
    const half = loraPlus({ learningRate: 1e-3, ratio: 4, schedule: constantWithWarmup({ peak: 1, warmup: 2 }) }), rules = rulesOf("test", { ...half, weightDecay: 0 });
    expect(["x.lora_A.weight", "x.lora_B.weight", "x.lora_embedding_A"].map((n) => rules.of(n)(1))).toEqual([5e-4, 2e-3, 5e-7]);
  });
  it("moves B as far as the ratio says", () => {
    const one = (): ReturnType<typeof store> => store(fromHost({ dtype: "f32", shape: [2], data: Float32Array.of(1, -1) })), tree = { lora_A: { weight: one() }, lora_B: { weight: one() } };
    sgd({ ...loraPlus({ learningRate: 0.125, ratio: 2 }) }).for(tree).step({ lora_A: { weight: one() }, lora_B: { weight: one() } });
    expect([Array.from(tree.lora_A.weight.dataSync()), Array.from(tree.lora_B.weight.dataSync())]).toEqual([[0.875, -0.875], [0.75, -0.75]]);
  });
  it.each<[string, () => unknown, string]>([
    ["a ratio below 1", () => loraPlus({ learningRate: 1, ratio: 0.5 }), "ratio"],
    ["a ratio that is no number", () => loraPlus({ learningRate: 1, ratio: NaN }), "ratio"],
    ["a negative rate", () => loraPlus({ learningRate: -1, ratio: 2 }), "learningRate"],
    ["a negative rate of embeddings", () => loraPlus({ learningRate: 1, ratio: 2, embeddingLearningRate: -1 }), "embeddingLearningRate"],
  ])("refuses %s", (_, make, key) => { expect(make).toThrow(expect.objectContaining({ name: "ConfigError", details: expect.objectContaining({ key }) })); });
});

describe("groups by role", () => {
  it("each role has its rate, decay and schedule; what is left out is the optimizer's", () => {
    const rules = rulesOf("test", {
      learningRate: 1, weightDecay: 0.5, noDecay: null,
      groups: byRole({ adapterB: { learningRate: 8 }, norm: { weightDecay: 0 }, embedding: { learningRate: 2, schedule: (t) => 1 / (t + 1) } }),
    });
    expect(["x.lora_A.weight", "x.lora_B.weight", "a.norm.weight", "embed_tokens.weight"].map((n) => [rules.of(n)(1), rules.decay(n)])).toEqual([[1, 0.5], [8, 0.5], [1, 0], [1, 0.5]]);
  });
  it("a role without parameters is left out by byRole, and refused where a group asks for it", () => {
    const tree = { lora_A: { weight: store(fromHost({ dtype: "f32", shape: [1], data: new Float32Array(1) })) } };
    expect(() => adamw({ groups: byRole({ magnitude: { learningRate: 1 } }) }).for(tree)).not.toThrow();
    expect(() => adamw({ groups: [{ match: { role: "magnitude" }, learningRate: 1 }] }).for(tree)).toThrow(/groups\[0\] takes no parameter: role magnitude/);
  });
  it("an unknown role lists the known ones", () => {
    expect(() => byRole(JSON.parse('{"adapterC": {"learningRate": 1}}'))).toThrow(ConfigError);
    expect(() => byRole(JSON.parse('{"adapterC": {"learningRate": 1}}'))).toThrow(new RegExp(roles.join(", ")));
  });
});
