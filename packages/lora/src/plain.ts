/** Adapters as the plain LoRA that they are equal to, for what takes nothing else: other tools, weighted combinations, servers. */
import { convertArray, type HostArray, hostArray } from "@adjoint/tensor";
import type { Role } from "./adapter.ts";
import { type Attachment, keyOf } from "./attachments.ts";
import { type LoraConfig, loraConfig } from "./config/config.ts";
import { unitScale } from "./config/ranks.ts";
import { attachLora, planLora } from "./lora.ts";
import { adalora } from "./methods/adalora.ts";
import type { Pair } from "./methods/layer.ts";
import { lowRank } from "./methods/low-rank.ts";
import { convertedConfig, convertedTensors } from "./methods/origin.ts";
import { vera } from "./methods/vera.ts";
import type { Tuned } from "./tuned.ts";

/** f(row, column) as a matrix, rounded to f32 once. */
function matrix(rows: number, cols: number, f: (i: number, j: number) => number): HostArray {
  const data = hostArray("f32", rows * cols);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) data[i * cols + j] = f(i, j);
  return { dtype: "f32", shape: [rows, cols], data };
}

/**
 * Factors A', B' with B' A' = the update, scale and all, of an attachment that is low-rank without being LoRA; null for any other.
 *
 * AdaLoRA: the triplets with E ≠ 0, A' their rows of A, B' = s B diag(E); one row of zeros where none is left, for LoRA has no rank 0.
 * VeRA: A' = diag(d) A and B' = diag(b) B, of its whole rank.
 */
export async function plainFactors({ method, site, factors, beside = {} }: Attachment): Promise<Pair<HostArray> | null> {
  const { inFeatures: inputs, outFeatures: outputs, r } = site, read = async (from: Attachment["factors"], role: Role): Promise<ArrayLike<number>> => { const { data, dtype } = await from[role].host(); return convertArray(data, dtype, "f64"); };
  if (method === adalora) {
    const [A, B, E] = [await read(factors, "A"), await read(factors, "B"), await read(factors, "E")], left = Array.from({ length: r }, (_, k) => k).filter((k) => E[k] !== 0), kept = left.length > 0 ? left : [0];
    return { A: matrix(kept.length, inputs, (k, i) => A[kept[k] * inputs + i]), B: matrix(outputs, kept.length, (o, k) => site.scale * B[o * r + kept[k]] * E[kept[k]]) };
  }
  if (method === vera) {
    const [A, B, b, d] = [await read(beside, "A"), await read(beside, "B"), await read(factors, "lambdaB"), await read(factors, "lambdaD")], width = beside["A"].shape[1]; // shared: as wide as the widest module
    return { A: matrix(r, inputs, (k, i) => d[k] * A[k * width + i]), B: matrix(outputs, r, (o, k) => b[o] * B[o * r + k]) };
  }
  return null;
}

/**
 * The same function as plain LoRA. What started away from zero (PiSSA and its like) gets factors of rank 2r, in memory what `save` writes; AdaLoRA the ranks
 * that it has left, each module its own; VeRA its rank (256 by default: larger files), scale 1. LoRA and DoRA are copied.
 * For what takes LoRA alone, such as PEFT's add_weighted_adapter or a server; the adapter that it came from stays as it is.
 * @example await (await plainLora(tuned)).save("out/as-lora");
 */
export async function plainLora<M extends object>(tuned: Tuned<M>): Promise<Tuned<M>> {
  const pairs = new Map<string, Pair<HostArray>>();
  for (const a of tuned.attachments) {
    const pair = await plainFactors(a);
    if (pair !== null) pairs.set(a.site.path, pair);
  }
  const now = tuned.fileConfig(), config = pairs.size > 0 ? rankedConfig(now, pairs) : convertedConfig(now), tensors = await convertedTensors(tuned.attachments, await tuned.snapshot());
  return attachLora(tuned.base, config, planLora(tuned.base, config, null, "file"), (a): Readonly<Record<Role, HostArray>> => {
    const pair = a.method === lowRank ? pairs.get(a.site.path) : undefined;
    if (pair !== undefined) return { ...pair };
    return Object.fromEntries(Object.keys({ ...a.method.shapes(a.site, config), ...a.method.fixed?.(a.site, config) }).flatMap((role) => {
      const array = tensors.get(keyOf(a, role));
      return array === undefined ? [] : [[role, array] as const];
    }));
  }, false);
}

/** LoRA's config over the same modules, with these ranks and scale 1. */
const rankedConfig = (config: LoraConfig, pairs: ReadonlyMap<string, Pair<HostArray>>): LoraConfig =>
  loraConfig({ ...config, adalora: null, vera: null, initLoraWeights: true, ...unitScale(new Map([...pairs].map(([path, { A }]) => [path, A.shape[0]]))) });
