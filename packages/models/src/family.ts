/** From a config to the classes of its family. */
import type { CausalLM } from "./causal-lm.ts";
import type { ModelConfig } from "./config.ts";
import { GPT2LMHeadModel, gpt2Modules, gpt2Name } from "./gpt2.ts";
import { type ModuleShape, shapesOf, type Take } from "./layout.ts";
import { LlamaForCausalLM, llamaModules } from "./llama.ts";
import type { Tokenizer } from "./tokenizer/index.ts";

/** The modules that a model of this config has, with paths, kinds and shapes of their weights; nothing is built. The first is the embedding of the ids, the last the output head. */
export const moduleShapes = (config: ModelConfig): readonly ModuleShape[] => (config.modelType === "gpt2" ? gpt2Modules(config) : llamaModules(config));

/** Names and shapes of all parameters, in the order of the forward pass. */
export const parameterShapes = (config: ModelConfig): ReadonlyMap<string, readonly number[]> => shapesOf(moduleShapes(config));

/** Name of the weight that ids are looked up in; a tied head has the same. */
export const embeddingName = (config: ModelConfig): string => `${moduleShapes(config)[0].path}.weight`;

/** A model of this config over the parameters that `take` gives. */
export const buildModel = (config: ModelConfig, take: Take, tokenizer: Tokenizer | null = null): CausalLM =>
  (config.modelType === "gpt2" ? new GPT2LMHeadModel(config, take, tokenizer) : new LlamaForCausalLM(config, take, tokenizer));

/** Our name of a tensor of a safetensors file. */
export const canonicalName = (config: ModelConfig, name: string): string => (config.modelType === "gpt2" ? gpt2Name(name) : name);
