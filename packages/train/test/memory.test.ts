/** The memory formula: the numbers of the specification, and the plans of steps that really run. */
import { checkpoint, gradients } from "@adjoint/autograd";
import { lora } from "@adjoint/lora";
import { initModel, knownConfig, type ModelConfig, parameterShapes, parseConfig } from "@adjoint/models";
import { type FormatName, quantize, quantizedOf, quantizedWeight } from "@adjoint/quant";
import { optimizer, optimizerNames, stateBytes } from "@adjoint/optim";
import { createReference, explain, hostNormal, planOf, setDevice, zeroStore } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { beforeAll, describe, expect, test } from "vitest";
import { adapterTrainee, collate, fullTrainee, idsRows, mergeRecipe, modulesOf, optimizerFor, predictMemory, quantizedBytes, rankRatio, staticTerms, stepBytes, type StaticTerms, toTensors, Training, trainingOptions } from "../src/index.ts";

beforeAll(() => { setDevice(createReference({ name: "fused", fuse: true })); });
const GIB = 2 ** 30, llama = parseConfig(knownConfig("Llama-2-7b"));
/** what the specification adds up before activations */
const before = ({ weights, adapter, gradients: g, optimizer }: StaticTerms): number => (weights + adapter + g + optimizer) / GIB;

describe("the specification's worked numbers (4.9)", () => {
  test("Llama-2-7B: parameters, adapters, GiB of each method", () => {
    const at = (targets: readonly string[] | string, rank = 8): StaticTerms => staticTerms(llama, { method: "qlora", rank, targets: typeof targets === "string" ? targets : [...targets] });
    expect([at("all-linear").parameters, at("all-linear").quantized]).toEqual([6_738_415_616, 6_476_005_376]);
    expect([at(["q_proj", "v_proj"]).perRank, at("all-linear").perRank]).toEqual([524_288, 2_498_560]);
    expect(at("all-linear", 256).trainable).toBe(639_631_360);
    expect(before(staticTerms(llama, { method: "full", dtype: "bf16" }))).toBeCloseTo(100.4, 1);
    expect(before(staticTerms(llama, { method: "lora", rank: 8 }))).toBeCloseTo(12.85, 2);
    expect(before(staticTerms(llama, { method: "qlora", rank: 8, doubleQuant: false }))).toBeCloseTo(4.18, 2);
    expect(before(staticTerms(llama, { method: "qlora", rank: 8 }))).toBeCloseTo(3.9, 2);
    expect(before(staticTerms(llama, { method: "qlora", rank: 256 }))).toBeCloseTo(13.1, 1);
    expect(8 * staticTerms(llama, { method: "qlora" }).bytesPerCode).toBeCloseTo(4.127, 2);
    expect(8 * staticTerms(llama, { method: "qlora", doubleQuant: false }).bytesPerCode).toBeCloseTo(4.5, 2);
  });
  test("the recipe of seed 001: T, and the cost of its rank (4.10)", () => {
    const config = parseConfig(knownConfig("openchat_3.5")), targets = ["q_proj", "k_proj", "o_proj", "up_proj", "gate_proj"], of = (rank: number): StaticTerms => staticTerms(config, { method: "lora", rank, targets });
    expect([of(16).parameters, of(16).perRank]).toEqual([7_241_748_480, 1_867_776]);
    expect([of(256).trainable, of(16).trainable]).toEqual([478_150_656, 29_884_416]);
    expect(rankRatio(of(16).parameters, of(16).trainable, of(256).trainable, { checkpointing: true, reference: true })).toBeCloseTo(1.062, 3);
    expect(rankRatio(1, 0, 1, { checkpointing: false })).toBeCloseTo(10 / 4, 12);
  });
  test("optimizers: bytes for what trains", () => {
    const of = (optimizer: string): number => { const s = staticTerms(llama, { method: "lora", rank: 8, optimizer }); return s.optimizer / s.trainable; };
    expect({ sgd: of("sgd"), adamw: of("adamw_torch"), lion: of("lion"), rmsprop: of("rmsprop"), adam8: of("adamw_8bit"), lion8: of("lion_8bit") }).toEqual({ sgd: 0, adamw: 8, lion: 4, rmsprop: 4, adam8: 2.03125, lion8: 1.015625 });
    expect(of("adafactor")).toBeLessThan(0.6);
    expect(() => staticTerms(llama, { method: "lora", optimizer: "adamv" })).toThrow(/did you mean adam/);
  });
});

test("every optimizer's bytes are those of its state", async () => {
  const json = { model_type: "llama", vocab_size: 8, hidden_size: 2048, intermediate_size: 4, num_hidden_layers: 1, num_attention_heads: 2 };
  for (const name of optimizerNames) {
    const config = parseConfig(json), table = staticTerms(config, { method: "lora", rank: 4, targets: ["q_proj"], optimizer: name }), scale = /lora_?(fa|pro)/.test(name) ? { scaling: 1 } : {};
    const own = await optimizer(name, JSON.parse(JSON.stringify({ learningRate: 1e-3, ...scale })) as { learningRate: number }).for({ q: { lora_A: { weight: zeroStore([4, 2048]) }, lora_B: { weight: zeroStore([2048, 4]) } } }).state();
    expect(Object.entries(own).filter(([key]) => !key.startsWith("step")).reduce((n, [, array]) => n + array.data.byteLength, 0), name).toBe(table.optimizer);
  }
});

test("in 8 bits, embeddings' states are those of 32", () => {
  const config = parseConfig({ model_type: "llama", vocab_size: 512, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 1, num_attention_heads: 2 }), tree = Object.fromEntries([...parameterShapes(config)].map(([name, shape]) => [name, zeroStore(shape, "f32")]));
  for (const optim of ["adamw_8bit", "lion_8bit"]) {
    expect(staticTerms(config, { method: "full", optimizer: optim }).optimizer).toBe(stateBytes(optimizerFor(mergeRecipe({ optim }), () => 1), tree));
    const adapter = { r: 4, targetModules: ["q_proj"], modulesToSave: ["embed_tokens"] };
    expect(staticTerms(config, { method: "lora", adapter, optimizer: optim }).optimizer).toBe((optim === "adamw_8bit" ? 2 : 1) * 4 * (512 * 64 + 2 * 4 * 64));
  }
});

test("LoRA-FA: no state and no gradient of what it leaves as it is, A of a layer and B of an embedding", () => {
  const config = parseConfig({ model_type: "llama", vocab_size: 32, hidden_size: 8, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2 }), s = staticTerms(config, { method: "lora", adapter: { r: 2, targetModules: ["q_proj", "embed_tokens"] }, optimizer: "lorafa" });
  const tree = { q: { lora_A: { weight: zeroStore([2, 8]) }, lora_B: { weight: zeroStore([8, 2]) } }, e: { lora_embedding_A: zeroStore([2, 32]), lora_embedding_B: zeroStore([8, 2]) } };
  expect([s.optimizer, s.gradients, s.trainable]).toEqual([stateBytes(optimizer("lorafa", { scaling: 1 }), tree), 4 * (8 * 2 + 2 * 32), 2 * 16 + 2 * (32 + 8)]);
});

describe("codes", () => {
  test.each([["nf4", true], ["nf4", false], ["int8", false], ["q4_0", false], ["fp4", true]] as const)("%s (double %s): the bytes that a quantized weight holds", (format: FormatName, doubleQuant) => {
    for (const shape of [[7, 9], [64, 64], [96, 300]]) {
      const n = shape[0] * shape[1], w = quantizedWeight(quantize(hostNormal(1, "w", shape).data as Float32Array, shape, { format, doubleQuant }));
      expect(Math.abs(quantizedBytes(n, format, undefined, doubleQuant) - (quantizedOf(w)?.bytes ?? 0))).toBeLessThanOrEqual(8);
    }
  });
  test("int8 has a row a scale, formats of GGUF files their own numbers; what a file says of each parameter comes first", () => {
    const json = { model_type: "llama", vocab_size: 64, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2, tie_word_embeddings: true }, config = parseConfig(json), model = initModel(json, 1);
    const bytes = (hold: (path: string, w: { shape: readonly number[]; data: Float32Array }) => number): number => Object.entries(model.weights()).reduce((n, [name, w]) => n + hold(name, { shape: w.shape, data: hostNormal(1, name, w.shape).data as Float32Array }), 0);
    const int8 = bytes((name, { shape, data }) => (/proj/.test(name) ? (quantizedOf(quantizedWeight(quantize(data, shape, { format: "int8", block: shape[1] })))?.bytes ?? 0) : 2 * data.length));
    expect(staticTerms(config, { method: "qlora", format: "int8", dtype: "bf16" }).weights).toBe(int8);
    const held = new Map<string, FormatName | "f32">(Object.keys(model.weights()).map((name) => [name, /embed|k_proj/.test(name) ? "q8_0" : /proj/.test(name) ? "q4_0" : "f32"]));
    const mixed = bytes((name, { shape, data }) => (/proj/.test(name) ? (quantizedOf(quantizedWeight(quantize(data, shape, { format: /k_proj/.test(name) ? "q8_0" : "q4_0" })))?.bytes ?? 0) : (/embed/.test(name) ? 2 : 4) * data.length));
    const terms = staticTerms(config, { method: "qlora", held });
    expect(terms.weights).toBe(mixed);
    expect(terms.quantized).toBe(terms.parameters - 64 * 64 - 3 * 64);
    expect(() => staticTerms(config, { method: "lora", held })).toThrow(/the weights are codes/);
    expect(() => staticTerms(config, { method: "qlora", format: "q4_0", doubleQuant: true })).toThrow(/the scales of q4_0 are f16/);
  });
  test("modules of a config are those of its model", () => {
    const json = { model_type: "qwen2", vocab_size: 20, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 2, num_attention_heads: 2, tie_word_embeddings: true }, linear = (x: { kind: string }): boolean => x.kind === "linear";
    expect(modulesOf(parseConfig(json)).filter(linear).map((m) => [m.path, m.inFeatures, m.outFeatures])).toEqual(initModel(json, 1).modules().filter(linear).map(({ path, module }) => [path, module.weight.shape[1], module.weight.shape[0]]));
  });
});

describe("the arena of a step", () => {
  const sizes = (layers: number): ModelConfig => parseConfig({ model_type: "llama", vocab_size: 256, hidden_size: 48, intermediate_size: 128, num_hidden_layers: layers, num_attention_heads: 4, num_key_value_heads: 2 });
  const batch = 2, seq = 32, adapter = { r: 4, targetModules: "all-linear" };
  /** the same step on a model that has its weights */
  function real(config: ModelConfig, checkpointing: boolean, isFull: boolean): number {
    const model = initModel({ ...config.json, num_hidden_layers: config.numHiddenLayers }, 1, { dtype: isFull ? "f32" : "bf16" }), trainee = isFull ? fullTrainee(model) : adapterTrainee(lora(model, { ...adapter, seed: 1 })), ids = Array.from({ length: seq }, (_, i) => i);
    const { total, count } = trainee.lossSum(toTensors(collate(Array.from({ length: batch }, () => ({ ids, labels: ids })), 0, 0)), checkpointing ? { train: false, checkpoint } : { train: false }), loss = total.div(count.maximum(1));
    return planOf([loss, ...Object.values(gradients(loss, trainee.trainable)).filter((g) => g !== null)]).spec.arenaBytes;
  }
  test("of a long row, and of many rows, follows from shorter ones within 10 %", () => {
    const config = sizes(1);
    for (const [rows, tokens] of [[1, 4096], [2, 2500], [64, 80]]) for (const checkpointing of [false, true]) {
      const of = (most?: number): number => stepBytes(config, { batch: rows, seq: tokens, checkpointing, adapter, dtype: "bf16" }, undefined, most).arena;
      expect(Math.abs(of(1024) - of()) / of(), `${rows} x ${tokens}`).toBeLessThan(0.1);
    }
    for (const [size, message] of [[{ seq: 1e12 }, /seq is 1000000000000.*many tokens/], [{ batch: 1e12 }, /batch is 1000000000000/]] as const) expect(() => predictMemory(config, { method: "lora", batch: 1, seq: 8, ...size })).toThrow(message);
    const positions = parseConfig({ model_type: "gpt2", vocab_size: 64, n_embd: 8, n_layer: 1, n_head: 2, n_positions: 24 });
    expect(() => predictMemory(positions, { method: "lora", batch: 1, seq: 25 })).toThrow(/seq is 25, and the model has 24 positions/);
    expect(() => staticTerms(config, { method: "qlora", skip: ["nosuch"] })).toThrow(/skip names nosuch/);
    expect(staticTerms(config, { method: "qlora", skip: ["q_proj", "lm_head"] }).quantized).toBeLessThan(staticTerms(config, { method: "qlora" }).quantized);
  });
  test("is that of the plan with weights, bit for bit, for few layers", () => {
    for (const isFull of [false, true]) for (const checkpointing of [false, true]) {
      const config = sizes(2), { arena } = stepBytes(config, { batch, seq, checkpointing, adapter: isFull ? null : adapter, dtype: isFull ? "f32" : "bf16" });
      expect(arena).toBe(real(config, checkpointing, isFull));
    }
  });
  test("and within 10 % for more layers, from two smaller plans", () => {
    for (const isFull of [false, true]) for (const checkpointing of [false, true]) {
      const config = sizes(8), { arena } = stepBytes(config, { batch, seq, checkpointing, adapter: isFull ? null : adapter, dtype: isFull ? "f32" : "bf16" });
      expect(Math.abs(arena / real(config, checkpointing, isFull) - 1), `${isFull} ${checkpointing}`).toBeLessThan(0.1);
    }
  });
  test("leaves the device and what waits on it alone", async () => {
    const model = initModel(sizes(1).json, 3), before = await model.weights()["model.norm.weight"].data();
    stepBytes(sizes(2), { batch, seq, checkpointing: false, adapter, dtype: "f32" });
    expect(await model.weights()["model.norm.weight"].data()).toEqual(before);
    expect(explain(model.weights()["model.norm.weight"].mul(2)).plan.kernels).toHaveLength(1);
  });
  test("a training that runs holds what was predicted, within 10 %", async () => {
    const device = setDevice(await wasm({ threads: 1 })), config = sizes(4), model = initModel(config.json, 1), rows = Array.from({ length: 2 * batch }, (_, r) => Array.from({ length: seq }, (_, i) => (7 * i + r) % 256));
    const training = new Training(adapterTrainee(lora(model, { ...adapter, seed: 1 })), trainingOptions(mergeRecipe({ max_steps: 2, per_device_train_batch_size: batch }), idsRows(rows, "rows")));
    for (let i = 0; i < 2; i++) await training.next();
    const predicted = predictMemory(config, { method: "lora", rank: 4, dtype: "f32", batch, seq }, device), held = device.counters.arenaBytes + device.counters.bufferBytes;
    expect(Math.abs(predicted.total / held - 1), `${predicted.total} predicted, ${held} held`).toBeLessThan(0.1);
    await device.close?.();
  });
});

test("requests that cannot be are refused by name", () => {
  expect(() => predictMemory(llama, { method: "lora", batch: 0, seq: 8 })).toThrow(/batch is 0/);
  expect(() => staticTerms(llama, { method: "lora", rank: 0 })).toThrow(/rank is 0/);
  expect(() => staticTerms(llama, { method: "qlora", block: 7 })).toThrow(/block 7/);
  expect([...parameterShapes(llama).keys()]).toHaveLength(291);
});
