/** @adjoint/models: Llama-family models, tokenizers and generation. */
export * from "./tokenizer/index.ts";
export { resolveModel } from "./hub.ts";
export type { DownloadProgress, ResolveModelOptions } from "./hub.ts";
export { type ConfigJson, type ModelConfig, type ModelType, modelTypes, parseConfig } from "./config.ts";
export { knownConfig, knownModels } from "./known.ts";
export type { Batch, CausalLM, ModuleEntry, Pass } from "./causal-lm.ts";
export { LlamaForCausalLM, parameterShapes } from "./llama.ts";
export { KVCache } from "./kv-cache.ts";
export { type LoadModelOptions, type LoadProgress, type ModelDType, type QuantizeWeights, initModel, loadModel, loadWeights, modelFrom } from "./load.ts";
export { fromGgufName, ggufConfig, toGgufName } from "./gguf.ts";
export type { Weight } from "./weights.ts";
export type { ModelFiles } from "./origin.ts";
export { hostWeights, type ModelFormat, type SaveModelOptions, savedFiles, saveModel } from "./save.ts";
export { type GenerateOptions, type Generator, Session, generate, generateIds } from "./generate.ts";
export { type SampleOptions, distribution, sample } from "./sample.ts";
