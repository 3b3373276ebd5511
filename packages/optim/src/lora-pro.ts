/** LoRA-Pro: gradients of the factors whose product comes as near as it can to the gradient of the whole matrix. */
import { ConfigError, type Tensor } from "@adjoint/tensor";
import { checkedBetas, scaleByAdam } from "./adam.ts";
import { flag, knownKeys, notNegative, oneOf } from "./check.ts";
import { type CommonOptions, built, commonKeys } from "./common.ts";
import { rulesOf } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";
import { type Pair, checkedScaling, gramOf, needPairs, pairsOf, partnerOf } from "./pairs.ts";
import { inverses, sylvester } from "./solve.ts";
import { type Context, type Leaves, type Transform, branch, filled, stateless } from "./transform.ts";
import { type ByPath, decayWeights, lerp, scaleByLearningRate } from "./transforms.ts";

/** How the free part X of the two gradients is chosen; the product does not depend on it. */
export type LoraProMode = "sylvester" | "symmetry" | "zero";

const DAMPING = 1e-8;

/** What a step needs of each pair: A, B, (AAᵀ + δI)⁻¹, (BᵀB + δI)⁻¹. */
interface Geometry { readonly pair: Pair; readonly A: Tensor; readonly B: Tensor; readonly s: number; readonly ofA: Tensor; readonly ofB: Tensor; readonly invA: Tensor; readonly invB: Tensor }

function geometryOf(pairs: readonly Pair[], leaves: Leaves, scaling: (path: string) => number): readonly Geometry[] {
  const grams = pairs.map((p) => gramOf(p, leaves)), inverse = inverses([...grams.map((g) => g.ofA), ...grams.map((g) => g.ofB)], DAMPING);
  return pairs.map((pair, i) => ({ pair, A: leaves[pair.a], B: leaves[pair.b], s: scaling(pair.b), ...grams[i], invA: inverse[i], invB: inverse[pairs.length + i] }));
}

/** The two adjusted gradients of each pair from its two plain ones. */
function adjusted(geometry: readonly Geometry[], gradients: readonly { readonly gA: Tensor; readonly gB: Tensor }[], mode: LoraProMode): readonly { readonly a: Tensor; readonly b: Tensor }[] {
  const parts = geometry.map(({ B, s, invA, invB }, i) => {
    const { gA, gB } = gradients[i], a = invB.matmul(gA).mul(1 / s ** 2), right = gB.matmul(invA).mul(1 / s ** 2), inside = invB.matmul(B.T.matmul(right));
    return { a, b: right.sub(B.matmul(inside)), inside };
  });
  if (mode === "zero") return parts;
  const xs = mode === "symmetry" ? parts.map(({ inside }) => inside.mul(-0.5)) : sylvester(geometry.map((g) => g.ofB), geometry.map((g) => g.ofA), parts.map(({ a }, i) => a.matmul(geometry[i].A.T).neg()));
  return parts.map(({ a, b }, i) => ({ a: a.add(xs[i].matmul(geometry[i].A)), b: b.sub(geometry[i].B.matmul(xs[i])) }));
}

function bothOf(op: string, pairs: readonly Pair[], updates: Leaves): readonly Pair[] {
  return pairs.filter(({ a, b }) => {
    if (a in updates !== b in updates) throw new ConfigError(`${op}: ${a in updates ? b : a} has no gradient, but its partner has`, { op, key: a in updates ? b : a, fix: "train both factors, or use loraFa" });
    return a in updates;
  });
}

/**
 * g_A ← (BᵀB)⁻¹g_A / s² + XA and g_B ← (I - B(BᵀB)⁻¹Bᵀ) g_B (AAᵀ)⁻¹ / s² - BX, all inverses of M + 1e-8 I. Whatever X, s(B g_A + g_B A) is
 * then P_B g + (I - P_B) g P_A for the whole matrix's gradient g, with the projectors on the columns of B and the rows of A: the nearest
 * that the factors can come. X: of BᵀB X + X AAᵀ = -(BᵀB)⁻¹g_A Aᵀ / s² (nearest to the plain gradients), -½(BᵀB)⁻¹Bᵀg_B(AAᵀ)⁻¹ / s², or 0.
 */
export function loraProGradients(scaling: ByPath, mode: LoraProMode = "sylvester"): Transform {
  const s = checkedScaling("loraProGradients", scaling);
  return stateless((updates, _, { leaves }) => {
    const pairs = bothOf("loraProGradients", pairsOf(leaves), updates), next: Record<string, Tensor> = { ...updates };
    if (pairs.length === 0) return updates;
    adjusted(geometryOf(pairs, leaves, s), pairs.map(({ a, b }) => ({ gA: updates[a], gB: updates[b] })), mode).forEach(({ a, b }, i) => { next[pairs[i].a] = a; next[pairs[i].b] = b; });
    return next;
  });
}

/** Adam on g̃ = s(B g_A + g_B A), whose moments are as large as the matrix (kept under the path of B); its direction goes back to the factors the same way. */
function scaleByFullLoraPro(scaling: (path: string) => number, mode: LoraProMode, betas: readonly [number, number], eps: number): Transform {
  const [b1, b2] = betas;
  const zerosOf = (params: Leaves): Leaves => Object.fromEntries(pairsOf(params).map(({ a, b }) => [b, filled([params[b].shape[0], params[a].shape[1]], params[b].dtype)]));
  const direction = (geometry: readonly Geometry[], updates: Leaves, state: Readonly<Record<string, Leaves>>, context: Context): { u: Leaves; m: Leaves; v: Leaves } => {
    const plain = adjusted(geometry, geometry.map(({ pair: { a, b } }) => ({ gA: updates[a], gB: updates[b] })), mode), m: Record<string, Tensor> = {}, v: Record<string, Tensor> = {}, u: Record<string, Tensor> = {};
    const back = geometry.map(({ A, B, s, pair: { b } }, i) => {
      const g = B.matmul(plain[i].a).add(plain[i].b.matmul(A)).mul(s), old = { m: state.exp_avg[b], v: state.exp_avg_sq[b] };
      m[b] = context.keep(lerp(old.m, g, 1 - b1), old.m);
      v[b] = context.keep(old.v.mul(b2).add(g.mul(g).mul(1 - b2)), old.v);
      const x = m[b].mul(context.ofUpdates(b, (t) => 1 / (1 - b1 ** t), g.dtype)).div(v[b].sqrt().div(context.ofUpdates(b, (t) => Math.sqrt(1 - b2 ** t), g.dtype)).add(eps));
      return { gA: B.T.matmul(x).mul(s), gB: x.matmul(A.T).mul(s) };
    });
    adjusted(geometry, back, mode).forEach(({ a, b }, i) => { u[geometry[i].pair.a] = a; u[geometry[i].pair.b] = b; });
    return { u, m, v };
  };
  return {
    init: (params) => ({ exp_avg: zerosOf(params), exp_avg_sq: zerosOf(params) }),
    update(updates, state, _, context) {
      const pairs = bothOf("loraPro", pairsOf(context.leaves), updates);
      if (pairs.length === 0) return { updates, state };
      const { u, m, v } = direction(geometryOf(pairs, context.leaves, scaling), updates, state, context);
      return { updates: u, state: { exp_avg: m, exp_avg_sq: v } };
    },
  };
}

/** Options of `loraPro`. */
export interface LoraProOptions extends CommonOptions {
  /** the adapters' scale, or a function of the path of lora_B; there is no default */
  readonly scaling?: ByPath;
  /** default "sylvester" */
  readonly mode?: LoraProMode;
  /** keep Adam's moments of the whole matrix (as much memory as full fine-tuning) instead of the factors' */
  readonly full?: boolean;
  readonly betas?: readonly [number, number];
  readonly eps?: number;
}

/**
 * LoRA-Pro (Wang et al. 2024): `loraProGradients`, then AdamW with decoupled decay. Leaves that are no factors: AdamW.
 * Defaults: learningRate 1e-3, betas 0.9, 0.999, eps 1e-8, weightDecay 0, mode "sylvester".
 * Errors: ConfigError without `scaling`, for a tree without pairs, or where one factor of a pair has a gradient and the other none.
 * @example loraPro({ learningRate: 1e-4, scaling: 16 / 8 }).for(tuned.adapter)
 */
export function loraPro(options: LoraProOptions): Optimizer {
  const op = "loraPro";
  knownKeys(op, options, [...commonKeys, "scaling", "mode", "full", "betas", "eps"]);
  const { learningRate = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, mode = "sylvester", full = false } = options, rules = rulesOf(op, { ...options, learningRate, weightDecay });
  checkedBetas(op, betas);
  notNegative(op, "eps", eps);
  oneOf(op, "mode", mode, ["sylvester", "symmetry", "zero"]);
  const scaling = checkedScaling(op, options.scaling), adam = scaleByAdam({ betas, eps }), known: Transform = { init: (params) => { needPairs(op, params); return {}; }, update: (updates, state) => ({ updates, state }) };
  const paired = (path: string): boolean => partnerOf(path) !== null;
  const directed = flag(op, "full", full) ? [branch(paired, scaleByFullLoraPro(scaling, mode, betas, eps), adam)] : [loraProGradients(scaling, mode), adam];
  return built(op, options, [known, ...directed, decayWeights(rules.decay, rules), scaleByLearningRate(rules)], rules, { betas, eps });
}
