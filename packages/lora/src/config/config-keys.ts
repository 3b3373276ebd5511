/** The 41 keys of `adapter_config.json`: what each holds, its default, and which ones adjoint refuses unless they are neutral. */

export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue };

/** Keys that say how PEFT should build something adjoint does not have yet: only the listed neutral values pass. */
export interface RefusedKey {
  readonly neutral: readonly JsonValue[];
  /** what the key asks for */
  readonly what: string;
  readonly fix: string;
}

const unset = (what: string): RefusedKey => ({ neutral: [null, false, {}], what, fix: "remove the key, or set it to null" });

export const refusedKeys: Readonly<Record<string, RefusedKey>> = {
  alora_invocation_tokens: unset("activated LoRA (aLoRA)"),
  arrow_config: unset("Arrow routing"),
  kasa_config: unset("KaSA"),
  layer_replication: { neutral: [null, []], what: "layer replication", fix: "write the deeper base model to disk first" },
  megatron_config: unset("Megatron layers"),
  monteclora_config: unset("MonteCLoRA"),
  use_bdlora: unset("block-diagonal LoRA"),
  use_qalora: { neutral: [false], what: "QALoRA", fix: "use false" },
  velora_config: unset("VeLoRA"),
};

/** Keys that mean nothing while a refused key is neutral; any value passes, and the default is written. */
export const inertKeys: readonly string[] = ["megatron_core", "qalora_group_size", "runtime_config", "peft_version"];

/** Everything that PEFT 0.21 writes, in its order of names, with neutral values. */
export const fileDefaults: { readonly [key: string]: JsonValue } = {
  alora_invocation_tokens: null,
  alpha_pattern: {},
  arrow_config: null,
  auto_mapping: null,
  base_model_name_or_path: null,
  bias: "none",
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  exclude_modules: null,
  fan_in_fan_out: false,
  inference_mode: true,
  init_lora_weights: true,
  kasa_config: null,
  layer_replication: null,
  layers_pattern: null,
  layers_to_transform: null,
  loftq_config: {},
  lora_alpha: 8,
  lora_bias: false,
  lora_dropout: 0,
  lora_ga_config: null,
  megatron_config: null,
  megatron_core: "megatron.core",
  modules_to_save: null,
  monteclora_config: null,
  peft_type: "LORA",
  peft_version: "0.21.2",
  qalora_group_size: 16,
  r: 8,
  rank_pattern: {},
  revision: null,
  target_modules: null,
  target_parameters: null,
  task_type: null,
  trainable_token_indices: null,
  use_bdlora: null,
  use_dora: false,
  use_qalora: false,
  use_rslora: false,
  velora_config: null,
};

export const taskTypes: readonly string[] = ["SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"];
