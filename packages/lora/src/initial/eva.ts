/**
 * EVA: A is the directions along which a layer's inputs vary most, and modules whose inputs vary along more directions get more rank.
 *
 * A = the first right singular vectors of the centred inputs, B = 0. The sum of all ranks is given out to the directions with the largest share of
 * explained variance, at most round(rho r) to a module; a module that gets none is left out. Batches are taken until every direction that
 * is needed has a cosine of at least tau with itself one batch earlier. Paischer et al. 2024 (arXiv 2410.07170).
 */
import { type Matrix, matrixOf, type Tensor, zeroMatrix } from "@adjoint/tensor";
import type { LoraConfig } from "../config/config.ts";
import { type EvaConfig, partDefaults } from "./configs.ts";
import { cannot, type Initialisation, type Place, type Setting } from "./initial.ts";
import { IncrementalPCA } from "./pca.ts";
import { range, rows } from "./spectrum.ts";
import { batchesOf, fitMask, inputsOf, maskOf, recordedInputs } from "./watch.ts";

/** PEFT's seed of random subspaces. */
const SEED = 42;
/** Passes over the batches before it is said that tau cannot be reached. */
const PASSES = 50;

/** Modules that are given the same tensor: one decomposition serves them all. */
interface Group {
  readonly places: readonly Place[];
  readonly most: number;
  readonly pca: IncrementalPCA;
  converged: readonly boolean[];
  done: boolean;
}

/** To the nearest integer, halves to even, as Python rounds. */
const roundEven = (x: number): number => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

function groupsOf(places: readonly Place[], inputs: ReadonlyMap<object, readonly Tensor[]>, rho: number): readonly Group[] {
  const byInput = new Map<Tensor, Place[]>();
  for (const p of places) {
    const x = (inputs.get(p.module) ?? [])[0];
    byInput.set(x, [...(byInput.get(x) ?? []), p]);
  }
  return [...byInput.values()].map((same) => {
    const most = Math.max(...same.map(({ site }) => Math.min(roundEven(site.r * rho), site.inFeatures)));
    return { places: same, most, pca: new IncrementalPCA(most, SEED), converged: range(0, most).map(() => false), done: false };
  });
}

const pathOf = (p: Place): string => p.site.path;
const hookOf = (g: Group): string => pathOf(g.places[0]);

/** Ranks by path: the budget goes to the largest shares of variance. The first module of a group keeps the largest rank of it, as in PEFT. */
export function distribute(groups: readonly Pick<Group, "places" | "most" | "pca">[], budget: number): ReadonlyMap<string, number> {
  const first = groups.map((g) => ({ g, p: g.places[0] })), others = groups.flatMap((g) => g.places.slice(1).map((p) => ({ g, p })));
  const shares = [...first, ...others].flatMap(({ g, p }) => Array.from(g.pca.explained, (share) => ({ path: pathOf(p), share }))).sort((a, b) => b.share - a.share);
  const ranks = new Map<string, number>(groups.flatMap((g) => g.places.map((p) => [pathOf(p), 0] as const)));
  for (const { path } of shares.slice(0, budget)) ranks.set(path, (ranks.get(path) ?? 0) + 1);
  for (const { g, p } of others) {
    const hook = pathOf(g.places[0]), own = ranks.get(pathOf(p)) ?? 0, top = ranks.get(hook) ?? 0;
    if (top < own) ranks.set(hook, own).set(pathOf(p), top);
  }
  return ranks;
}

/** The rows of an input that count. */
async function rowsOf(x: Tensor, mask: readonly boolean[] | null, path: string): Promise<Matrix> {
  const width = x.shape[x.shape.length - 1], n = x.size / width, host = await x.host(), all = matrixOf({ ...host, shape: [n, width] });
  if (mask === null) return all;
  fitMask("eva", mask, n, path);
  const kept = mask.flatMap((yes, i) => (yes ? [i] : [])), out = zeroMatrix(kept.length, width);
  kept.forEach((from, i) => { out.data.set(all.data.subarray(from * width, (from + 1) * width), i * width); });
  return out;
}

/** |cosine| is not taken: signs are fixed, and a direction that turned around has not converged. */
const cosines = (a: Matrix, b: Matrix): readonly number[] => range(0, a.rows).map((i) => {
  let ab = 0, aa = 0, bb = 0;
  for (let j = i * a.cols; j < (i + 1) * a.cols; j++) { ab += a.data[j] * b.data[j]; aa += a.data[j] ** 2; bb += b.data[j] ** 2; }
  return ab / Math.max(Math.sqrt(aa * bb), 1e-8);
});

/** One batch into the decompositions that still change. */
async function learn<B>(setting: Setting<B>, groups: readonly Group[], batch: B, eva: EvaConfig): Promise<void> {
  const mask = await maskOf(setting, batch, eva.useLabelMask ? eva.labelMaskValue : null);
  const inputs = inputsOf(setting, "eva", groups.map((g) => g.places[0]), batch); // of all, so that every batch runs the same plan
  for (const g of groups) if (!g.done) for (const x of inputs.get(g.places[0].module) ?? []) {
    const before = g.pca.components;
    if (g.pca.add(await rowsOf(x, mask, hookOf(g))) && before !== null && g.pca.components !== null) g.converged = cosines(g.pca.components, before).map((c) => c >= eva.tau);
  }
}

/** Batches, again and again, until all directions that are needed stand still. */
async function settle<B>(setting: Setting<B>, groups: readonly Group[], batches: readonly B[], eva: EvaConfig, budget: number): Promise<ReadonlyMap<string, number>> {
  let ranks: ReadonlyMap<string, number> = new Map(groups.flatMap((g) => g.places.map((p) => [pathOf(p), g.most] as const)));
  for (let step = 0; step < PASSES * batches.length; step++) {
    for (const g of groups) g.done = g.converged.slice(0, ranks.get(hookOf(g))).every((c) => c);
    if (groups.every((g) => g.done)) return ranks;
    await learn(setting, groups, batches[step % batches.length], eva);
    const empty = groups.find((g) => g.pca.components === null);
    if (empty === undefined) ranks = distribute(groups, budget);
    else if (step === batches.length - 1) throw cannot("eva", `no batch has ${empty.most} rows that count, which ${hookOf(empty)} needs`, "give larger batches, lower r or rho, or set useLabelMask to false", { key: "batches" });
  }
  throw cannot("eva", `the directions still change after ${PASSES} passes over ${batches.length} batches`, "lower tau, or give larger batches", { key: "tau", value: eva.tau });
}

const escape = (path: string): string => `^${path.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")}`;

/** rank_pattern, alpha_pattern and target_modules after the ranks were given out; modules that EVA does not see keep theirs. */
function configOf({ config, places }: Pick<Setting<never>, "config" | "places">, ranks: ReadonlyMap<string, number>, eva: EvaConfig): LoraConfig {
  const { scaling } = config, rankPattern: Record<string, number> = {}, alphaPattern: Record<string, number> = {}, kept: string[] = [];
  if (eva.adjustScalingFactors && typeof scaling === "function") throw cannot("eva", "adjustScalingFactors keeps alpha / r, and the scale is a function", "set evaConfig: { adjustScalingFactors: false }", { key: "adjustScalingFactors", value: true });
  for (const { site } of places) {
    const r = ranks.get(site.path) ?? site.r, more = r / site.r;
    if (r === 0) continue;
    const alpha = r === site.r || !eva.adjustScalingFactors ? site.alpha : site.alpha * (scaling === "rslora" ? Math.sqrt(more) : more);
    kept.push(site.path);
    if (r !== config.r) rankPattern[escape(site.path)] = r;
    if (alpha !== config.loraAlpha) alphaPattern[escape(site.path)] = alpha;
  }
  const layers = kept.length === places.length ? {} : { targetModules: kept, layersToTransform: null, layersPattern: null };
  return { ...config, ...layers, rankPattern, alphaPattern };
}

export const eva: Initialisation = {
  name: "eva",
  begin: async (setting) => {
    const own = setting.config.evaConfig ?? partDefaults.evaConfig, seen = setting.places.filter(({ site }) => site.kind === "linear" || site.kind === "conv1d");
    if (seen.length === 0) throw cannot("eva", "no linear layer is adapted", "name linear layers in target_modules", { key: "targetModules" });
    const batches = await batchesOf(setting, "eva"), groups = groupsOf(seen, recordedInputs(setting, "eva", seen, batches[0]), own.rho);
    const ranks = await settle(setting, groups, batches, own, seen.reduce((n, { site }) => n + site.r, 0));
    return {
      config: configOf(setting, ranks, own),
      start: ({ site }) => {
        const { components, singularValues } = groups.find((g) => g.places.some((p) => pathOf(p) === site.path))?.pca ?? { components: null, singularValues: [] };
        if (components === null) return null;
        const A = rows(components, range(0, site.r));
        if (own.whiten) for (let i = 0; i < A.data.length; i++) A.data[i] /= Math.sqrt(singularValues[Math.floor(i / A.cols)]);
        return { A, B: zeroMatrix(site.outFeatures, site.r) };
      },
    };
  },
};
