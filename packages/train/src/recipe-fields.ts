/** The keys of a recipe as data: type, default, bounds and help; files, flags and `--help` are derived from this table. */
import { optimizerNames, scheduleNames } from "@adjoint/optim";

/** A recipe: what a run does. Names are those of TRL, transformers and alignment-handbook where they have one. */
export interface Recipe {
  readonly model_name_or_path: string | null;
  readonly model_revision: string | null;
  readonly config_name: string | null;
  readonly tokenizer_name: string | null;
  readonly init_adapter: string | null;
  readonly load_in_4bit: boolean;
  readonly load_in_8bit: boolean;
  readonly bnb_4bit_quant_type: string;
  readonly bnb_4bit_use_double_quant: boolean;
  readonly quant_block_size: number | null;
  readonly llm_int8_skip_modules: readonly string[];
  readonly upcast_modules: string;
  readonly dataset_name: readonly string[];
  readonly eval_dataset_name: readonly string[];
  readonly old_dataset_name: readonly string[];
  readonly ids: string | null;
  readonly eval_ids: string | null;
  readonly validation_split_percentage: number;
  readonly max_length: number;
  readonly packing: boolean | null;
  readonly packing_strategy: string | null;
  readonly completion_only_loss: boolean | null;
  readonly assistant_only_loss: boolean;
  readonly shuffle: boolean;
  readonly max_steps: number;
  readonly num_train_epochs: number;
  readonly per_device_train_batch_size: number;
  readonly per_device_eval_batch_size: number;
  readonly gradient_accumulation_steps: number;
  readonly gradient_checkpointing: boolean;
  readonly learning_rate: number;
  readonly lr_scheduler_type: string;
  readonly lr_scheduler_kwargs: Readonly<Record<string, string>>;
  readonly warmup_steps: number;
  readonly warmup_ratio: number;
  readonly optim: string;
  readonly optim_args: Readonly<Record<string, string>>;
  readonly weight_decay: number;
  readonly learning_rate_pattern: Readonly<Record<string, string>>;
  readonly weight_decay_pattern: Readonly<Record<string, string>>;
  readonly loraplus_lr_ratio: number | null;
  readonly loraplus_lr_embedding: number;
  readonly adam_beta1: number;
  readonly adam_beta2: number;
  readonly adam_epsilon: number;
  readonly max_grad_norm: number;
  readonly seed: number;
  readonly use_peft: boolean;
  readonly lora_r: number;
  readonly lora_alpha: number | null;
  readonly lora_dropout: number;
  readonly lora_target_modules: readonly string[];
  readonly use_rslora: boolean;
  readonly rank_pattern: Readonly<Record<string, string>>;
  readonly alpha_pattern: Readonly<Record<string, string>>;
  readonly layers_to_transform: readonly number[] | null;
  readonly layers_pattern: readonly string[];
  readonly fan_in_fan_out: boolean;
  readonly init_lora_weights: boolean | string;
  readonly init_batches: number;
  readonly eva_config: Readonly<Record<string, string>>;
  readonly corda_config: Readonly<Record<string, string>>;
  readonly lora_ga_config: Readonly<Record<string, string>>;
  readonly loftq_config: Readonly<Record<string, string>>;
  readonly use_dora: boolean;
  readonly lora_bias: boolean;
  readonly bias: string;
  readonly modules_to_save: readonly string[];
  readonly trainable_token_indices: Indices;
  readonly target_parameters: readonly string[];
  readonly ensure_weight_tying: boolean;
  readonly save_embedding_layers: boolean | string;
  readonly exclude_modules: readonly string[];
  readonly peft_type: string;
  readonly target_r: number | null;
  readonly init_r: number | null;
  readonly tinit: number;
  readonly tfinal: number;
  readonly delta_t: number;
  readonly adalora_beta1: number;
  readonly adalora_beta2: number;
  readonly orth_reg_weight: number;
  readonly projection_prng_key: number;
  readonly d_initial: number;
  readonly relora: number | null;
  readonly relora_cycle: number | null;
  readonly relora_warmup: number;
  readonly relora_warm_start: number;
  readonly relora_reset: string;
  readonly relora_reset_ratio: number | null;
  readonly relora_train_rest: boolean;
  readonly output_dir: string | null;
  readonly overwrite_output_dir: boolean;
  readonly logging_steps: number;
  readonly eval_steps: number;
  readonly save_steps: number;
  readonly save_total_limit: number;
  readonly resume_from_checkpoint: string | null;
  readonly save_dtype: string;
  readonly sample_prompt: string | null;
  readonly sample_max_new_tokens: number;
  readonly device: string;
  readonly threads: number;
  readonly wide: boolean;
}

/** Indices, or lists of them by the name of a module. */
export type Indices = readonly number[] | Readonly<Record<string, readonly number[]>> | null;

export type FieldKind = "text" | "texts" | "integer" | "number" | "flag" | "map" | "indices";

/** One key. */
export interface Field {
  readonly kind: FieldKind;
  readonly group: "model" | "data" | "training" | "adapter" | "run" | "machine";
  readonly help: string;
  /** null may be given */
  readonly nullable?: boolean;
  readonly min?: number;
  readonly max?: number;
  /** exclusive lower bound */
  readonly above?: number;
  /** exclusive upper bound */
  readonly below?: number;
  readonly choices?: readonly string[];
  /** of a text: the values it may have */
  readonly matches?: RegExp;
  /** of a text: true and false are values too */
  readonly boolean?: boolean;
  /** of indices: they may be given by module, name -> indices */
  readonly byName?: boolean;
  /** other names of the same key */
  readonly aliases?: readonly string[];
}

export const optimizers: readonly string[] = optimizerNames;
export const schedules: readonly string[] = scheduleNames;

export const fields: { readonly [K in keyof Recipe]: Field } = {
  model_name_or_path: { kind: "text", nullable: true, group: "model", aliases: ["model"], help: "folder or hub id of the base model; the bundled one when left out" },
  model_revision: { kind: "text", nullable: true, group: "model", aliases: ["revision"], help: "branch, tag or commit of a hub id; main when left out" },
  config_name: { kind: "text", nullable: true, group: "model", help: "config.json of a model to start from random numbers (pretrain)" },
  tokenizer_name: { kind: "text", nullable: true, group: "model", aliases: ["tokenizer"], help: "folder with tokenizer.json; the model's own when left out" },
  init_adapter: { kind: "text", nullable: true, group: "model", help: "adapter folder to go on from" },
  load_in_4bit: { kind: "flag", group: "model", help: "hold the base's linear layers as 4-bit codes (QLoRA)" },
  load_in_8bit: { kind: "flag", group: "model", help: "hold the base's linear layers in int8, a scale a row" },
  bnb_4bit_quant_type: { kind: "text", choices: ["nf4", "fp4", "int4", "q4_0", "mxfp4"], group: "model", help: "what a 4-bit code stands for" },
  bnb_4bit_use_double_quant: { kind: "flag", group: "model", aliases: ["use_bnb_nested_quant"], help: "hold the scales as 8-bit codes too" },
  quant_block_size: { kind: "integer", nullable: true, min: 1, group: "model", help: "weights a scale; null: 64 for nf4 and fp4, 32 for q4_0 and mxfp4, a row for 8 bits" },
  llm_int8_skip_modules: { kind: "texts", group: "model", aliases: ["quant_skip_modules"], help: "linear layers that are not quantized, or none" },
  upcast_modules: { kind: "text", choices: ["none", "norms", "all"], group: "model", help: "what of the base that is not quantized goes into f32" },
  dataset_name: { kind: "texts", group: "data", aliases: ["data", "dataset", "train_file"], help: "training data: .txt or .jsonl files, folders of them, or moby-dick, addresses, numbers" },
  eval_dataset_name: { kind: "texts", group: "data", aliases: ["eval_data", "validation_file"], help: "held-out data of the new domain; a share of the training data when left out" },
  old_dataset_name: { kind: "texts", group: "data", aliases: ["old_data"], help: "data of the old domain, to show what is forgotten" },
  ids: { kind: "text", nullable: true, group: "data", help: "JSON file: an array of rows of token ids, instead of text; a row is one sample" },
  eval_ids: { kind: "text", nullable: true, group: "data", help: "held-out rows of token ids" },
  validation_split_percentage: { kind: "number", min: 0, below: 100, group: "data", help: "share of the rows held out when no held-out data is named, in percent" },
  max_length: { kind: "integer", min: 2, group: "data", aliases: ["max_seq_length"], help: "tokens of a row; longer rows are cut" },
  packing: { kind: "flag", nullable: true, group: "data", help: "several samples in one row; null: texts are (wrapped), the rest is not" },
  packing_strategy: { kind: "text", nullable: true, choices: ["bfd", "wrapped"], group: "data", help: "how rows are filled: bfd, best fit, each sample seeing itself only; wrapped, cut from one stream; null: bfd with packing" },
  completion_only_loss: { kind: "flag", nullable: true, group: "data", help: "loss on completions alone; null: yes for prompt and completion data" },
  assistant_only_loss: { kind: "flag", group: "data", help: "loss on the assistant's turns alone (the chat template must mark them)" },
  shuffle: { kind: "flag", group: "data", aliases: ["shuffle_dataset"], help: "a new order of rows each epoch, from the seed" },
  max_steps: { kind: "integer", min: -1, group: "training", help: "optimizer steps; -1: as num_train_epochs says" },
  num_train_epochs: { kind: "number", above: 0, group: "training", help: "passes over the data when max_steps is -1" },
  per_device_train_batch_size: { kind: "integer", min: 1, group: "training", aliases: ["batch_size"], help: "rows of a micro-batch" },
  per_device_eval_batch_size: { kind: "integer", min: 1, group: "training", help: "rows of an evaluation batch" },
  gradient_accumulation_steps: { kind: "integer", min: 1, group: "training", help: "micro-batches of one optimizer step" },
  gradient_checkpointing: { kind: "flag", group: "training", help: "compute layers again in the backward pass: less memory, more time" },
  learning_rate: { kind: "number", min: 0, group: "training", help: "peak learning rate" },
  lr_scheduler_type: { kind: "text", choices: schedules, group: "training", help: "course of the learning rate; adjoint explain schedule shows each" },
  lr_scheduler_kwargs: { kind: "map", group: "training", help: "further options of the schedule, k=v,..: num_cycles, min_lr_rate, power, num_decay_steps, .." },
  warmup_steps: { kind: "number", min: 0, group: "training", help: "steps of linear warm-up; a number below 1 is a share of all steps" },
  warmup_ratio: { kind: "number", min: 0, max: 1, group: "training", help: "warm-up as a share of all steps, where warmup_steps is 0" },
  optim: { kind: "text", choices: optimizers, group: "training", help: "optimizer; adjoint explain optimizer tells of each" },
  optim_args: { kind: "map", group: "training", help: "further options of the optimizer, k=v,..: beta1, beta2, eps, weight_decay, momentum, .." },
  weight_decay: { kind: "number", min: 0, group: "training", help: "weight decay; vectors (norms, biases) take none" },
  learning_rate_pattern: { kind: "map", group: "training", help: "learning rate by parameter: expression=rate,..; it follows the same course" },
  weight_decay_pattern: { kind: "map", group: "training", help: "weight decay by parameter: expression=decay,.." },
  loraplus_lr_ratio: { kind: "number", nullable: true, min: 1, group: "adapter", help: "LoRA+: B learns so many times as fast as A; null: as fast" },
  loraplus_lr_embedding: { kind: "number", min: 0, group: "adapter", help: "LoRA+: learning rate of adapters on embeddings" },
  adam_beta1: { kind: "number", min: 0, below: 1, group: "training", help: "decay of the first moment, where the optimizer has one" },
  adam_beta2: { kind: "number", min: 0, below: 1, group: "training", help: "decay of the second moment, where the optimizer has one" },
  adam_epsilon: { kind: "number", above: 0, group: "training", help: "added to the denominator of Adam and its kin" },
  max_grad_norm: { kind: "number", min: 0, group: "training", help: "global norm above which gradients are scaled down; 0: never" },
  seed: { kind: "integer", min: 0, max: 2 ** 32 - 1, group: "training", help: "every random number follows from it" },
  use_peft: { kind: "flag", group: "adapter", help: "train an adapter and leave the base as it is; false: full fine-tuning" },
  lora_r: { kind: "integer", min: 1, group: "adapter", aliases: ["r"], help: "rank of the adapter" },
  lora_alpha: { kind: "number", nullable: true, above: 0, group: "adapter", help: "scale: alpha/r, or alpha/sqrt(r) with use_rslora; null: the rank" },
  lora_dropout: { kind: "number", min: 0, below: 1, group: "adapter", help: "share of the adapter's inputs dropped in training" },
  lora_target_modules: { kind: "texts", group: "adapter", aliases: ["target_modules"], help: "modules to adapt: names, one regular expression, or all-linear" },
  use_rslora: { kind: "flag", group: "adapter", help: "rank-stabilised scale alpha/sqrt(r); AdaLoRA: alpha/sqrt(init_r) instead of alpha/init_r" },
  rank_pattern: { kind: "map", group: "adapter", help: "rank by module: expression=rank,.." },
  alpha_pattern: { kind: "map", group: "adapter", help: "alpha by module: expression=alpha,.." },
  layers_to_transform: { kind: "indices", nullable: true, group: "adapter", help: "layers that are adapted, by number; the targets must be a list of names" },
  layers_pattern: { kind: "texts", group: "adapter", help: "what the numbered layers are called (layers, h), where a path has several numbers" },
  fan_in_fan_out: { kind: "flag", group: "adapter", help: "for adapter_config.json: weights are stored (in, out), as GPT-2's; how ours are stored is known" },
  init_lora_weights: { kind: "text", boolean: true, matches: /^(gaussian|pissa|pissa_niter_\d+|olora|orthogonal|loftq|eva|corda|lora_ga|mica)$/, group: "adapter", help: "true: B starts at zero; false: at random; or gaussian, pissa, pissa_niter_4, olora, orthogonal, loftq, eva, corda, lora_ga, mica" },
  init_batches: { kind: "integer", min: 1, group: "adapter", help: "batches of the training data that eva, corda and lora_ga look at" },
  eva_config: { kind: "map", group: "adapter", help: "of eva: rho, tau, use_label_mask, label_mask_value, whiten, adjust_scaling_factors" },
  corda_config: { kind: "map", group: "adapter", help: "of corda: corda_method (ipm learns what the data uses, kpm keeps it)" },
  lora_ga_config: { kind: "map", group: "adapter", help: "of lora_ga: direction (ArBr, A2rBr, ArB2r, random), scale (stable, weight_svd, gd_scale, unit), stable_gamma" },
  loftq_config: { kind: "map", group: "adapter", help: "of loftq: loftq_bits (those of the base), loftq_iter" },
  use_dora: { kind: "flag", group: "adapter", help: "DoRA: the weight's direction learns by the factors, its lengths by a vector" },
  lora_bias: { kind: "flag", group: "adapter", help: "a bias beside B" },
  bias: { kind: "text", choices: ["none", "all", "lora_only"], group: "adapter", help: "biases of the base that train: all, or those of adapted layers" },
  modules_to_save: { kind: "texts", group: "adapter", aliases: ["lora_modules_to_save"], help: "modules that train in full beside the adapter and are saved with it: names" },
  trainable_token_indices: { kind: "indices", byName: true, nullable: true, group: "adapter", help: "tokens whose embedding rows train: ids, or {\"embed_tokens\": [ids]}" },
  target_parameters: { kind: "texts", group: "adapter", aliases: ["lora_target_parameters"], help: "parameters adapted as matrices, by the end of their path, such as q_proj.weight" },
  ensure_weight_tying: { kind: "flag", group: "adapter", help: "what trains of one of two layers that share a weight trains for both" },
  save_embedding_layers: { kind: "text", boolean: true, choices: ["auto"], group: "adapter", help: "frozen embedding and head in the adapter's file: auto (where the base's files have others), true or false" },
  exclude_modules: { kind: "texts", group: "adapter", aliases: ["lora_exclude_modules"], help: "modules that are not adapted: names, or one regular expression" },
  peft_type: { kind: "text", choices: ["LORA", "ADALORA", "VERA"], group: "adapter", help: "kind of adapter: LoRA with its variants, AdaLoRA, VeRA" },
  target_r: { kind: "integer", nullable: true, min: 1, group: "adapter", help: "AdaLoRA: mean rank at the end; null: lora_r" },
  init_r: { kind: "integer", nullable: true, min: 1, group: "adapter", help: "AdaLoRA: rank at the start; null: 1.5 times target_r" },
  tinit: { kind: "integer", min: 0, group: "adapter", help: "AdaLoRA: steps at the start in which no rank is given up" },
  tfinal: { kind: "integer", min: 0, group: "adapter", help: "AdaLoRA: steps at the end in which the ranks stay" },
  delta_t: { kind: "integer", min: 1, group: "adapter", aliases: ["deltaT"], help: "AdaLoRA: steps between two allocations" },
  adalora_beta1: { kind: "number", above: 0, below: 1, group: "adapter", help: "AdaLoRA: decay of the mean importance" },
  adalora_beta2: { kind: "number", above: 0, below: 1, group: "adapter", help: "AdaLoRA: decay of its deviation" },
  orth_reg_weight: { kind: "number", min: 0, group: "adapter", help: "AdaLoRA: weight of the penalty on factors that are not orthogonal" },
  projection_prng_key: { kind: "integer", min: 0, group: "adapter", help: "VeRA: the shared random projections follow from it" },
  d_initial: { kind: "number", group: "adapter", help: "VeRA: first value of the vector d" },
  relora: { kind: "integer", nullable: true, min: 1, group: "adapter", help: "ReLoRA: steps between merges of the adapter into the base; null: never" },
  relora_cycle: { kind: "integer", nullable: true, min: 1, group: "adapter", aliases: ["cycle_length"], help: "ReLoRA: steps between resets of the factors' moments; null: as relora" },
  relora_warmup: { kind: "integer", min: 0, group: "adapter", aliases: ["restart_warmup_steps"], help: "ReLoRA: steps in which the rate grows back after a restart (relora_cosine_restarts)" },
  relora_warm_start: { kind: "integer", min: 0, group: "adapter", help: "ReLoRA: steps at the start in which all weights train in full, as in the paper" },
  relora_reset: { kind: "text", choices: ["zero", "random", "magnitude", "none"], group: "adapter", help: "ReLoRA: what of the moments is forgotten" },
  relora_reset_ratio: { kind: "number", nullable: true, above: 0, below: 1, group: "adapter", help: "ReLoRA: share that random and magnitude forget" },
  relora_train_rest: { kind: "flag", group: "adapter", help: "ReLoRA: embeddings, norms and head train in full beside the factors" },
  output_dir: { kind: "text", nullable: true, group: "run", aliases: ["out", "output"], help: "folder of adapter, metrics, checkpoints and report" },
  overwrite_output_dir: { kind: "flag", group: "run", aliases: ["overwrite"], help: "replace what output_dir holds: an earlier run or model" },
  logging_steps: { kind: "integer", min: 0, group: "run", help: "where there is no terminal: a line each so many steps; 0: each 10 %" },
  eval_steps: { kind: "integer", min: 0, group: "run", help: "evaluate each so many steps; 0: before and after only" },
  save_steps: { kind: "integer", min: 0, group: "run", help: "a checkpoint each so many steps; 0: only when interrupted" },
  save_total_limit: { kind: "integer", min: 0, group: "run", help: "checkpoints to keep; 0: all" },
  resume_from_checkpoint: { kind: "text", nullable: true, group: "run", aliases: ["resume"], help: "a checkpoint folder, or `latest`: the last one in output_dir" },
  save_dtype: { kind: "text", choices: ["float32", "float16", "bfloat16"], group: "run", help: "element type of a fully trained model's file" },
  sample_prompt: { kind: "text", nullable: true, group: "run", aliases: ["prompt"], help: "prompt of the sample shown before and after" },
  sample_max_new_tokens: { kind: "integer", min: 1, group: "run", help: "length of the sample" },
  device: { kind: "text", group: "machine", help: "auto: the GPU where there is one, else the CPU; cpu (or wasm); webgpu, or webgpu:PART of an adapter's name; reference: slow, exact, for tests" },
  threads: { kind: "integer", min: 0, group: "machine", help: "threads of the wasm device; 0: as many as cores, at most 8" },
  wide: { kind: "flag", group: "machine", help: "V8's 256-bit path where a check finds it right and faster (Node 24 and newer, x64)" },
};

/** Defaults; commands change a few. */
export const defaultRecipe: Recipe = {
  model_name_or_path: null, model_revision: null, config_name: null, tokenizer_name: null, init_adapter: null,
  load_in_4bit: false, load_in_8bit: false, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: false, quant_block_size: null, llm_int8_skip_modules: ["lm_head"], upcast_modules: "none",
  dataset_name: [], eval_dataset_name: [], old_dataset_name: [], ids: null, eval_ids: null, validation_split_percentage: 10,
  max_length: 256, packing: null, packing_strategy: null, completion_only_loss: null, assistant_only_loss: false, shuffle: true,
  max_steps: -1, num_train_epochs: 1, per_device_train_batch_size: 8, per_device_eval_batch_size: 8, gradient_accumulation_steps: 1, gradient_checkpointing: false,
  learning_rate: 2e-4, lr_scheduler_type: "cosine", lr_scheduler_kwargs: {}, warmup_steps: 0, warmup_ratio: 0, optim: "adamw_torch", optim_args: {}, weight_decay: 0,
  learning_rate_pattern: {}, weight_decay_pattern: {}, loraplus_lr_ratio: null, loraplus_lr_embedding: 1e-6,
  adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, max_grad_norm: 1, seed: 42,
  use_peft: true, lora_r: 16, lora_alpha: null, lora_dropout: 0, lora_target_modules: ["all-linear"], use_rslora: true, rank_pattern: {}, alpha_pattern: {}, layers_to_transform: null, layers_pattern: [], fan_in_fan_out: false, init_lora_weights: true,
  init_batches: 8, eva_config: {}, corda_config: {}, lora_ga_config: {}, loftq_config: {}, use_dora: false, lora_bias: false, bias: "none", modules_to_save: [],
  trainable_token_indices: null, target_parameters: [], ensure_weight_tying: false, save_embedding_layers: "auto", exclude_modules: [], peft_type: "LORA", target_r: null, init_r: null, tinit: 0, tfinal: 0, delta_t: 1, adalora_beta1: 0.85, adalora_beta2: 0.85,
  orth_reg_weight: 0.5, projection_prng_key: 0, d_initial: 0.1,
  relora: null, relora_cycle: null, relora_warmup: 0, relora_warm_start: 0, relora_reset: "zero", relora_reset_ratio: null, relora_train_rest: false,
  output_dir: null, overwrite_output_dir: false, logging_steps: 0, eval_steps: 0, save_steps: 0, save_total_limit: 3, resume_from_checkpoint: null,
  save_dtype: "float32", sample_prompt: null, sample_max_new_tokens: 40, device: "auto", threads: 0, wide: true,
};

/** Keys of the same families that say nothing here: accepted with these values, which are reported as having no effect. */
export const inertKeys: Readonly<Record<string, { readonly values: readonly unknown[] | "any"; readonly why: string }>> = {
  bf16: { values: [false], why: "training runs in f32" },
  fp16: { values: [false], why: "training runs in f32" },
  tf32: { values: [false, true], why: "training runs in f32" },
  torch_dtype: { values: ["auto", null], why: "weights keep the dtype of their file" },
  dtype: { values: ["auto", null], why: "weights keep the dtype of their file" },
  attn_implementation: { values: "any", why: "there is one attention" },
  use_flash_attention_2: { values: [false, true], why: "there is one attention" },
  trust_remote_code: { values: [false], why: "no code is ever downloaded" },
  report_to: { values: [null, "none", [], ["none"]], why: "metrics go to metrics.jsonl" },
  run_name: { values: "any", why: "metrics go to metrics.jsonl" },
  log_level: { values: "any", why: "one level of messages" },
  logging_strategy: { values: ["steps"], why: "every step is logged" },
  logging_first_step: { values: [false, true], why: "every step is logged" },
  push_to_hub: { values: [false], why: "nothing is uploaded" },
  hub_model_id: { values: "any", why: "nothing is uploaded" },
  hub_strategy: { values: "any", why: "nothing is uploaded" },
  do_eval: { values: [true], why: "held-out data is always evaluated" },
  do_train: { values: [true], why: "the command says so" },
  preprocessing_num_workers: { values: "any", why: "the result does not depend on it" },
  dataset_num_proc: { values: "any", why: "the result does not depend on it" },
  dataloader_num_workers: { values: "any", why: "the result does not depend on it" },
  gradient_checkpointing_kwargs: { values: "any", why: "layers are recorded again, there is no re-entrant mode" },
  lora_task_type: { values: ["CAUSAL_LM"], why: "the only task" },
  bnb_4bit_compute_dtype: { values: ["float32", null], why: "products decode to f32 and compute in it" },
  bnb_4bit_quant_storage: { values: ["uint8", null], why: "codes are bytes" },
  llm_int8_threshold: { values: "any", why: "activations stay in f32, so none of them is an outlier" },
  llm_int8_has_fp16_weight: { values: [false], why: "the codes alone are kept" },
  llm_int8_enable_fp32_cpu_offload: { values: "any", why: "all of the model is on one device" },
  total_step: { values: "any", why: "AdaLoRA's budget counts the steps of the run" },
  save_projection: { values: [true], why: "VeRA's projections are in its file" },
  alora_invocation_tokens: { values: [null], why: "activated LoRA (aLoRA) is not here" },
  arrow_config: { values: [null], why: "Arrow routing is not here" },
  kasa_config: { values: [null], why: "KaSA is not here" },
  layer_replication: { values: [null], why: "write the deeper base to disk first" },
  megatron_config: { values: [null], why: "there are no Megatron layers" },
  monteclora_config: { values: [null], why: "MonteCLoRA is not here" },
  use_bdlora: { values: [null, false], why: "block-diagonal LoRA is not here" },
  use_qalora: { values: [false], why: "QALoRA is not here" },
  velora_config: { values: [null], why: "VeLoRA is not here" },
  remove_unused_columns: { values: "any", why: "only the known columns are read" },
};
