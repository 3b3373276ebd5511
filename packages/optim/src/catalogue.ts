/** All optimizers by name: how to make them, what they compute, their defaults, their memory, and where they come from. */
import { ConfigError } from "@adjoint/tensor";
import { adafactorTorch, adafactorTrainer } from "./adafactor.ts";
import { type AdamOptions, adam, adamw, adamwHf, nadam } from "./adam.ts";
import { adam8bit, adamw8bit, lion8bit, rmsprop8bit } from "./blockwise.ts";
import { withDefaults } from "./check.ts";
import { lamb } from "./lamb.ts";
import { lion } from "./lion.ts";
import { loraFa, riemannian } from "./lora-fa.ts";
import { loraPro } from "./lora-pro.ts";
import { muon } from "./muon.ts";
import type { Optimizer } from "./optimizer.ts";
import { adagrad, rmsprop } from "./rmsprop.ts";
import { sgd } from "./sgd.ts";
import { sophia } from "./sophia.ts";

/** One optimizer as data. */
export interface OptimizerEntry {
  readonly name: string;
  /** other names, those of Transformers' `optim` among them */
  readonly aliases: readonly string[];
  /** refuses options that it does not have */
  make(options?: object): Optimizer;
  /** one step, line by line: g gradient, p parameter, lr rate, λ decay, t updates of the leaf */
  readonly equations: readonly string[];
  readonly defaults: Readonly<Record<string, unknown>>;
  /** bytes a parameter of each state, as a formula */
  readonly state: Readonly<Record<string, string>>;
  readonly source: string;
}

const betas = [0.9, 0.999], adamLines = ["m ← β₁m + (1 - β₁)g", "v ← β₂v + (1 - β₂)g²", "p ← p - lr · m/(1 - β₁ᵗ) / (√v/√(1 - β₂ᵗ) + eps)"], decoupled = "p ← p(1 - lr λ)", coupled = "g ← g + λp";
const moments = { exp_avg: "4", exp_avg_sq: "4" };

/** Every optimizer, in the order of the field's history. */
export const optimizerEntries: readonly OptimizerEntry[] = [
  {
    name: "sgd", aliases: [], make: sgd, equations: [coupled, "buf ← μ buf + (1 - dampening) g   (the first time buf ← g)", "p ← p - lr · (nesterov ? g + μ buf : buf)"],
    defaults: { learningRate: 1e-3, momentum: 0, dampening: 0, weightDecay: 0, nesterov: false }, state: { momentum_buffer: "4 (none without momentum)" }, source: "torch.optim.SGD",
  },
  {
    name: "adagrad", aliases: [], make: adagrad, equations: [coupled, "s ← s + g²", "p ← p - lr / (1 + (t - 1) lrDecay) · g / (√s + eps)"],
    defaults: { learningRate: 1e-2, lrDecay: 0, weightDecay: 0, initialAccumulatorValue: 0, eps: 1e-10 }, state: { sum: "4" }, source: "Duchi, Hazan and Singer 2011; torch.optim.Adagrad",
  },
  {
    name: "rmsprop", aliases: ["rmsprop_bnb", "rmsprop_bnb_32bit"], make: rmsprop, equations: [coupled, "s ← αs + (1 - α)g²;  centered: ḡ ← αḡ + (1 - α)g", "u = g / (√(s - ḡ²) + eps)   (ḡ = 0 unless centered)", "buf ← μ buf + u", "p ← p - lr buf"],
    defaults: { learningRate: 1e-2, alpha: 0.99, eps: 1e-8, weightDecay: 0, centered: false, momentum: 0 }, state: { square_avg: "4", grad_avg: "4 (centered)", momentum_buffer: "4 (with momentum)" }, source: "Hinton 2012; torch.optim.RMSprop",
  },
  {
    name: "adam", aliases: [], make: adam, equations: [coupled, ...adamLines], defaults: { learningRate: 1e-3, betas, eps: 1e-8, weightDecay: 0, amsgrad: false },
    state: { ...moments, max_exp_avg_sq: "4 (amsgrad)" }, source: "Kingma and Ba 2015; torch.optim.Adam",
  },
  {
    name: "amsgrad", aliases: [], make: (options: AdamOptions = {}) => adam(withDefaults("amsgrad", options, { amsgrad: true })), equations: [coupled, ...adamLines.slice(0, 2), "v̂ ← max(v̂, v)", "p ← p - lr · m/(1 - β₁ᵗ) / (√v̂/√(1 - β₂ᵗ) + eps)"],
    defaults: { learningRate: 1e-3, betas, eps: 1e-8, weightDecay: 0, amsgrad: true }, state: { ...moments, max_exp_avg_sq: "4" }, source: "Reddi, Kale and Kumar 2018; torch.optim.Adam(amsgrad=True)",
  },
  {
    name: "adamw", aliases: ["adamw_torch", "adamw_torch_fused", "paged_adamw", "paged_adamw_32bit"], make: adamw, equations: [decoupled, ...adamLines], defaults: { learningRate: 1e-3, betas, eps: 1e-8, weightDecay: 1e-2, amsgrad: false },
    state: { ...moments, max_exp_avg_sq: "4 (amsgrad)" }, source: "Loshchilov and Hutter 2019; torch.optim.AdamW",
  },
  {
    name: "adamw_hf", aliases: [], make: adamwHf, equations: [...adamLines.slice(0, 2), "p ← p - lr √(1 - β₂ᵗ)/(1 - β₁ᵗ) · m / (√v + eps)", decoupled], defaults: { learningRate: 1e-3, betas, eps: 1e-6, weightDecay: 0 },
    state: moments, source: "the AdamW that Transformers had until 2024",
  },
  {
    name: "nadam", aliases: [], make: nadam, equations: [coupled, ...adamLines.slice(0, 2), "μ_t = β₁(1 - ½·0.96^(tψ)),  Π_t = μ_1 ⋯ μ_t", "p ← p - lr ((1 - μ_t)/(1 - Π_t) · g + μ_{t+1}/(1 - Π_{t+1}) · m) / (√(v/(1 - β₂ᵗ)) + eps)"],
    defaults: { learningRate: 2e-3, betas, eps: 1e-8, weightDecay: 0, momentumDecay: 4e-3, decoupledWeightDecay: false }, state: moments, source: "Dozat 2016; torch.optim.NAdam",
  },
  {
    name: "adafactor", aliases: [], make: adafactorTrainer, equations: ["β = 1 - t^decayRate", "row ← β row + (1 - β) mean(g² + eps₁, columns);  col ← β col + (1 - β) mean(g² + eps₁, rows)", "u = g / √(row · col / mean(row))", "lr_t = (relativeStep ? min(1e-2 or 1e-6 t, 1/√t) : lr) · (scaleParameter ? max(eps₂, RMS(p)) : 1)", "u ← lr_t u / max(1, RMS(u)/clipThreshold);  with beta1: u ← m ← β₁m + (1 - β₁)u", "p ← p(1 - λ lr_t) - u"],
    defaults: { learningRate: 1e-3, eps: [1e-30, 1e-3], clipThreshold: 1, decayRate: -0.8, beta1: null, weightDecay: 0, scaleParameter: false, relativeStep: false, warmupInit: false },
    state: { exp_avg_sq_row: "4/columns", exp_avg_sq_col: "4/rows", exp_avg_sq: "4 (vectors)", exp_avg: "4 (with beta1)" }, source: "Shazeer and Stern 2018; transformers.Adafactor as its Trainer sets it",
  },
  {
    name: "adafactor_torch", aliases: [], make: adafactorTorch, equations: ["ω = t^beta2Decay,  α = max(eps₂, RMS(p)) · min(lr, 1/√t)", decoupled, "row ← lerp(row, mean(g², columns), ω);  col ← lerp(col, mean(g², rows), ω)", "u = g / √max(row · col / max(mean(row), eps₁), eps₁²)", "p ← p - α u / max(1, RMS(u)/d)"],
    defaults: { learningRate: 1e-2, beta2Decay: -0.8, eps: [null, 1e-3], d: 1, weightDecay: 0 }, state: { row_var: "4/columns", col_var: "4/rows", variance: "4 (vectors)" }, source: "Shazeer and Stern 2018; torch.optim.Adafactor",
  },
  {
    name: "lamb", aliases: [], make: lamb, equations: [...adamLines.slice(0, 2), "r = m/(1 - β₁ᵗ) / (√v/√(1 - β₂ᵗ) + eps) + λp", "p ← p - lr · ‖p‖/‖r‖ · r   (ratio 1 where a norm is 0)"],
    defaults: { learningRate: 1e-3, betas, eps: 1e-6, weightDecay: 0.01 }, state: moments, source: "You et al. 2020 (arXiv 1904.00962)",
  },
  {
    name: "lion", aliases: ["lion_32bit", "paged_lion_32bit", "paged_lion"], make: lion, equations: [decoupled, "p ← p - lr sign(β₁m + (1 - β₁)g)", "m ← β₂m + (1 - β₂)g"], defaults: { learningRate: 1e-4, betas: [0.9, 0.99], weightDecay: 0 },
    state: { exp_avg: "4" }, source: "Chen et al. 2023 (arXiv 2302.06675)",
  },
  {
    name: "sophia", aliases: [], make: sophia, equations: [decoupled, "m ← β₁m + (1 - β₁)g", "p ← p - lr sign(m) min(1, |m| / (ρ bs h + 1e-15))", "every k steps: h ← β₂h + (1 - β₂) ĝ², ĝ with labels drawn from the model (or v ⊙ Hv)"],
    defaults: { learningRate: 1e-4, betas: [0.965, 0.99], rho: 0.04, bs: 1, weightDecay: 0.1 }, state: { exp_avg: "4", hessian: "4" }, source: "Liu et al. 2023 (arXiv 2305.14342)",
  },
  {
    name: "muon", aliases: [], make: muon, equations: ["buf ← μ buf + (1 - μ)g;  u = nesterov ? (1 - μ)g + μ buf : buf", "X = u/‖u‖;  nsSteps times: G = XXᵀ, X ← aX + (bG + cG²)X", decoupled, "p ← p - lr √max(1, rows/columns) X", "others = adam: vectors, embeddings and heads take AdamW's step"],
    defaults: { learningRate: 1e-3, weightDecay: 0.1, momentum: 0.95, nesterov: true, nsCoefficients: [3.4445, -4.775, 2.0315], eps: 1e-7, nsSteps: 5, adjustLrFn: "original", others: "refuse" }, state: { momentum_buffer: "4", exp_avg: "4 (others)", exp_avg_sq: "4 (others)" }, source: "Jordan et al. 2024; torch.optim.Muon",
  },
  {
    name: "adam_8bit", aliases: ["adam8bit"], make: adam8bit, equations: [decoupled, ...adamLines, "m, v: codes of the dynamic map, one scale a block of 256; f32 in leaves below min8bitSize numbers, in recipes in embeddings too"], defaults: { learningRate: 1e-3, betas, eps: 1e-8, weightDecay: 0, min8bitSize: 4096 },
    state: { state1: "1", absmax1: "4/256", state2: "1", absmax2: "4/256" }, source: "Dettmers et al. 2022; bitsandbytes.optim.Adam8bit",
  },
  {
    name: "adamw_8bit", aliases: ["adamw_bnb_8bit", "paged_adamw_8bit", "adamw8bit"], make: adamw8bit, equations: [decoupled, ...adamLines, "m, v: codes of the dynamic map, one scale a block of 256; f32 in leaves below min8bitSize numbers, in recipes in embeddings too"], defaults: { learningRate: 1e-3, betas, eps: 1e-8, weightDecay: 1e-2, min8bitSize: 4096 },
    state: { state1: "1", absmax1: "4/256", state2: "1", absmax2: "4/256" }, source: "Dettmers et al. 2022; bitsandbytes.optim.AdamW8bit",
  },
  {
    name: "lion_8bit", aliases: ["paged_lion_8bit", "lion8bit"], make: lion8bit, equations: [decoupled, "p ← p - lr sign(β₁m + (1 - β₁)g)", "m ← β₂m + (1 - β₂)g", "m: codes of the dynamic map, one scale a block of 256; f32 in leaves below min8bitSize numbers, in recipes in embeddings too"], defaults: { learningRate: 1e-4, betas: [0.9, 0.99], weightDecay: 0, min8bitSize: 4096 },
    state: { state1: "1", absmax1: "4/256" }, source: "bitsandbytes.optim.Lion8bit",
  },
  {
    name: "rmsprop_bnb_8bit", aliases: ["rmsprop8bit"], make: rmsprop8bit, equations: [coupled, "s ← αs + (1 - α)g²", "p ← p - lr g / (√s + eps)", "s: codes of the dynamic map, one scale a block of 256; f32 in leaves below min8bitSize numbers, in recipes in embeddings too"], defaults: { learningRate: 1e-2, alpha: 0.99, eps: 1e-8, weightDecay: 0, min8bitSize: 4096 },
    state: { state1: "1", absmax1: "4/256" }, source: "bitsandbytes.optim.RMSprop8bit",
  },
  {
    name: "lorafa", aliases: ["lora_fa"], make: loraFa, equations: ["g_B ← g_B (AAᵀ + 1e-8 I)⁻¹ / s²;  A stays", ...adamLines.slice(0, 2), "B ← B - lr √(1 - β₂ᵗ)/(1 - β₁ᵗ) · m / (√v + eps)", "B ← B(1 - lr λ)"],
    defaults: { learningRate: 1e-3, betas, eps: 1e-6, weightDecay: 0, scaling: "needed" }, state: { exp_avg: "4 (of B)", exp_avg_sq: "4 (of B)" }, source: "Zhang et al. 2023 (arXiv 2308.03303); peft.optimizers.LoraFAOptimizer",
  },
  {
    name: "riemannian", aliases: ["riemannian_lora"], make: riemannian, equations: ["g_A ← (BᵀB + reg I)⁻¹ g_A;  g_B ← g_B (AAᵀ + reg I)⁻¹", "then adamw (or sgd)"], defaults: { learningRate: 1e-3, reg: 1e-2, base: "adamw", betas, eps: 1e-8, momentum: 0, weightDecay: 1e-2 },
    state: { ...moments, momentum_buffer: "4 (sgd with momentum, alone)" }, source: "Zhang and Pilanci 2024 (arXiv 2402.02347); peft.optimizers.create_riemannian_optimizer",
  },
  {
    name: "lorapro", aliases: ["lora_pro"], make: loraPro, equations: ["g_A ← (BᵀB)⁻¹g_A / s² + XA;  g_B ← (I - B(BᵀB)⁻¹Bᵀ) g_B (AAᵀ)⁻¹ / s² - BX", "X: BᵀB X + X AAᵀ = -(BᵀB)⁻¹g_A Aᵀ / s²  (or symmetry, or 0)", "then adamw"],
    defaults: { learningRate: 1e-3, betas, eps: 1e-8, weightDecay: 0, mode: "sylvester", full: false, scaling: "needed" }, state: { exp_avg: "4 (full: 4 out·in)", exp_avg_sq: "4 (full: 4 out·in)" }, source: "Wang et al. 2024 (arXiv 2407.18242)",
  },
];

const byName: ReadonlyMap<string, OptimizerEntry> = new Map(optimizerEntries.flatMap((e) => [e.name, ...e.aliases].map((name): [string, OptimizerEntry] => [name, e])));
/** Names that `optimizer` knows: those of `optim` in recipes, and the short ones. "paged" ones are their plain selves: memory here is paged by the system. */
export const optimizerNames: readonly string[] = [...byName.keys()];

/** An optimizer's entry by any of its names. Errors: ConfigError for an unknown name (lists the known ones). */
export function optimizerEntry(name: string): OptimizerEntry {
  const entry = byName.get(name);
  if (!entry) throw new ConfigError(`optimizer: there is no ${name}`, { op: "optimizer", key: "optim", value: name, fix: `known optimizers: ${optimizerNames.join(", ")}` });
  return entry;
}

/** An optimizer by the name that recipes use. Errors: ConfigError for an unknown name (lists the known ones) or an option that it does not have. */
export const optimizer = (name: string, options: object = {}): Optimizer => optimizerEntry(name).make(options);
