/** What each adapter and each first numbers are, in words and equations: for `adjoint explain adapter` and whoever teaches. */
import { ConfigError } from "@adjoint/tensor";
import type { LoraOptions } from "./config/config.ts";
import { nearest } from "./targets/nearest.ts";

/** One adapter, or one way to choose its first numbers. */
export interface AdapterAbout {
  readonly name: string;
  readonly title: string;
  /** an adapter, or how one starts (`init_lora_weights`) */
  readonly kind: "adapter" | "first numbers";
  /** x: the layer's input, W: its frozen weight (out, in), s: the scale, g: the gradient of y; the output, its gradients, its start */
  readonly equations: readonly string[];
  readonly use: string;
  /** keys of a recipe that ask for it */
  readonly recipe: string;
  readonly code: string;
  readonly source: string;
  /** options of `lora` that make it; null where another function does */
  readonly options: LoraOptions | null;
}

const factors = "dB = s gᵀ (x Aᵀ),  dA = s (g B)ᵀ x,  dx = g W + s (g B) A;  dW is never formed", zero = "A normal or uniform, B = 0: the model starts as the base";
const adapter = (name: string, title: string, about: Omit<AdapterAbout, "name" | "title" | "kind">): AdapterAbout => ({ name, title, kind: "adapter", ...about });
const start = (name: string, title: string, equations: readonly string[], use: string, source: string): AdapterAbout => ({
  name, title, kind: "first numbers", equations, use, source, recipe: `init_lora_weights: ${name}`, options: null,
  code: `await createLora(model, { r: 16, initLoraWeights: "${name}" }${["eva", "corda", "lora_ga"].includes(name) ? ", { batches }" : name === "loftq" ? ", { original }" : ""})`,
});
const taken = "y = W x + s (B A - B₀ A₀) x: the model starts as the base, which is not changed";

/** Every adapter, then every choice of first numbers. */
export const adapterAbouts: readonly AdapterAbout[] = [
  adapter("lora", "LoRA", { equations: ["y = W x + s B A x,  s = α/r", factors, zero], use: "the one that everything reads; a rank of 8 to 32", recipe: "use_rslora: false", code: "lora(model, { r: 16, loraAlpha: 16 })", source: "Hu et al. 2021 (arXiv 2106.09685)", options: {} }),
  adapter("rslora", "rsLoRA", { equations: ["y = W x + s B A x,  s = α/√r: the first step of B is as large for every rank", factors, zero], use: "higher ranks; here the default of recipes", recipe: "use_rslora: true", code: "lora(model, { r: 64, loraAlpha: 16, useRslora: true })", source: "Kalajdzievski 2023 (arXiv 2312.03732)", options: { useRslora: true } }),
  adapter("dora", "DoRA", { equations: ["V = W + s B A;  y = m/n ∘ (V x) + bias,  n = ‖rows of V‖, a constant for the gradient", "n² = rowsum(W²) + 2 s rowsum((W Aᵀ) ∘ B) + s² rowsum((B (A Aᵀ)) ∘ B); V is never formed", "m = ‖rows of W‖ and B = 0 at the start: the model starts as the base"], use: "low ranks, where directions and lengths should move apart", recipe: "use_dora: true", code: "lora(model, { r: 8, useDora: true })", source: "Liu et al. 2024 (arXiv 2402.09353)", options: { useDora: true } }),
  adapter("adalora", "AdaLoRA", { equations: ["y = W x + s B diag(E) A x;  loss + ρ (‖A Aᵀ - I‖ + ‖Bᵀ B - I‖), mean over modules", "H = x Aᵀ, u = g B:  dE = s Σ u ∘ H,  dA = s (u ∘ E)ᵀ x,  dB = s gᵀ (H ∘ E)", "importance of a triplet: averages of |p dp| of its numbers; the least are switched off until a budget is met"], use: "to find which modules deserve rank", recipe: "peft_type: ADALORA, init_r, target_r, tinit, tfinal, delta_t", code: "lora(model, { adalora: { initR: 12, targetR: 8, totalStep: 1000 } })", source: "Zhang et al. 2023 (arXiv 2303.10512)", options: { adalora: { initR: 8, targetR: 4 } } }),
  adapter("vera", "VeRA", { equations: ["y = W x + b ∘ (B (d ∘ (A x))); A and B random, frozen, shared by all modules", "h = A x, v = B (d ∘ h), du = (g ∘ b) B:  db = Σ g ∘ v,  dd = Σ du ∘ h", "b = 0, d = 0.1: the model starts as the base"], use: "many adapters in little memory", recipe: "peft_type: VERA", code: "lora(model, { r: 256, vera: {} })", source: "Kopiczko et al. 2023 (arXiv 2310.11454)", options: { vera: {} } }),
  adapter("flora", "FLoRA", { equations: ["W' = W ∘ mean_j a_j b_jᵀ;  y = mean_j a_j ∘ (W (b_j ∘ x)) + bias", "da_j = Σ g ∘ (W (b_j ∘ x)) / r,  db_j = Σ x ∘ ((g ∘ a_j) W) / r", "a = 1, the mean of the products 1: the model starts as the base"], use: "batches whose every row has an adapter of its own", recipe: "none: a training from code", code: "floraAdapter(model, { r: 4 })", source: "Wen and Chaudhuri 2023 (arXiv 2312.05677); PEFT has none", options: null }),
  adapter("relora", "ReLoRA", { equations: ["y = W x + s B A x;  every k steps  W ← W + s B A,  A ← random,  B ← 0", "the sum of n updates of rank r has a rank of up to n r"], use: "pretraining with the memory of an adapter", recipe: "relora: 1000 (the command pretrain)", code: "await mergeAndReinit(tuned, { count: 1 })", source: "Lialin et al. 2023 (arXiv 2307.05695)", options: null }),
  adapter("qlora", "QLoRA", { equations: ["y = dq(W) x + s B A x;  W as codes of 4 bits, a scale a block; products decode them", "dx = g dq(W) + s (g B) A; codes have no gradient"], use: "a base four times larger in the same memory", recipe: "load_in_4bit: true, bnb_4bit_quant_type: nf4, bnb_4bit_use_double_quant: true", code: 'lora(await loadModel(dir, { quantize: { format: "nf4", doubleQuant: true } }), { r: 16 })', source: "Dettmers et al. 2023 (arXiv 2305.14314)", options: null }),
  start("pissa", "PiSSA", ["W = U S Vᵀ:  B = U_r √(S_r/s),  A = √(S_r/s) V_rᵀ", taken], "training that moves the largest directions first", "Meng et al. 2024 (arXiv 2404.02948)"),
  start("olora", "OLoRA", ["W = Q R:  B = the first r columns of Q,  A = the first r rows of R", taken], "orthonormal starts without an SVD", "Büyükakyüz 2024 (arXiv 2406.01775)"),
  start("corda", "CorDA", ["C = covariance of the inputs;  U S Vᵀ = W C:  B = U √(S/s),  A = √(S/s) Vᵀ C⁻¹ of r directions", taken], "data at hand: the directions that matter for it (ipm), or those that do not (kpm)", "Yang et al. 2024 (arXiv 2406.05223)"),
  start("lora_ga", "LoRA-GA", ["dL/dW = U S Vᵀ:  A takes r rows of Vᵀ, B r columns of U; a rule sets their size", taken], "a first step near that of full fine-tuning", "Wang et al. 2024 (arXiv 2407.05000)"),
  start("eva", "EVA", ["A = the principal components of the inputs, B = 0; ranks shared out by the variance that they explain"], "data at hand, and ranks that differ from module to module", "Paischer et al. 2024 (arXiv 2410.07170)"),
  start("orthogonal", "orthogonal", ["A and B from two halves of one orthogonal matrix: neither is 0, and B A = 0"], "gradients for both factors from the first step", "PEFT, init_lora_weights"),
  start("loftq", "LoftQ", ["Q ← quantize(W - B A),  B A ← the best rank r of W - Q, again and again"], "a base of codes: the adapter begins by giving back what they lost", "Li et al. 2023 (arXiv 2310.08659)"),
  start("mica", "MiCA", ["B = the r left singular vectors of W with the smallest singular values, frozen;  A = 0"], "learning beside what the base knows", "arXiv 2604.01694"),
];

/** What one of them is. @throws ConfigError naming near names */
export function aboutAdapter(name: string): AdapterAbout {
  const wanted = name.toLowerCase().replaceAll(/[-_]/g, ""), found = adapterAbouts.find((a) => a.name.replaceAll("_", "") === wanted);
  if (found !== undefined) return found;
  const names = adapterAbouts.map((a) => a.name), near = nearest(name, names);
  throw new ConfigError(`there is no adapter ${name}`, { op: "aboutAdapter", key: "name", value: name, fix: near.length > 0 ? `did you mean ${near.join(" or ")}?` : `known: ${names.join(", ")}` });
}
