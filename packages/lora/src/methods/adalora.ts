/**
 * AdaLoRA: y = W x + s B diag(E) A x. Triplets (a row of A, a number of E, a column of B) that matter least are switched off by E = 0, until the ranks
 * of all modules together fit a budget. With H = x Aᵀ and u = g B: dE = s Σ u ∘ H, dA = s (u ∘ E)ᵀ x, dB = s gᵀ (H ∘ E). Zhang et al. 2023 (arXiv 2303.10512).
 */
import { convertArray, fromHost, type HostArray, hostNormal, type Tensor } from "@adjoint/tensor";
import { type AdditiveMethod, type Factors, mergedByAdding, type Shapes, type Site } from "../adapter.ts";
import type { AdaloraConfig } from "../config/adalora-config.ts";
import { type Attachment, keyOf } from "../attachments.ts";
import type { LoraConfig } from "../config/config.ts";
import { dropped, zerosOf } from "./layer.ts";
import { PREFIX } from "../files/peft-keys.ts";

const shapes = (site: Site): Shapes & Readonly<Record<"A" | "B" | "E", readonly [number, number]>> => ({ A: [site.r, site.inFeatures], B: [site.outFeatures, site.r], E: [site.r, 1] });

/** Which triplets are left: ones at the start; a file's rank_pattern. It does not train and is no tensor of the file. */
function maskOf(site: Site, { adalora }: LoraConfig): HostArray {
  const mask = zerosOf([site.r, 1]), kept = adalora?.rankPattern?.[site.path];
  for (let i = 0; i < site.r; i++) mask.data[i] = kept === undefined || kept[i] ? 1 : 0;
  return mask;
}

function delta({ A, B, E }: Factors, site: Site): Tensor {
  const scaled = A.mul(E.mul(site.scale));
  return site.kind === "conv1d" ? scaled.T.matmul(B.T) : B.matmul(scaled);
}

/** ‖X - I‖ of a Gram matrix; 0 has the gradient 0. */
function distance(gram: Tensor): Tensor {
  const r = gram.shape[0], I = zerosOf([r, r]);
  for (let i = 0; i < r; i++) I.data[i * r + i] = 1;
  return gram.sub(fromHost(gram.dtype === "f32" ? I : { ...I, dtype: gram.dtype, data: convertArray(I.data, "f32", gram.dtype) })).square().sum().maximum(1e-30).sqrt();
}

/** The adapter of AdaLoRA, on linear layers and Conv1D. */
export const adalora: AdditiveMethod = {
  name: "adalora",
  shapes,
  moving: ["mask"],
  init: (site, config, seed) => {
    const { A, B, E } = shapes(site), normal = (role: string, shape: readonly number[], std: number): HostArray => hostNormal(seed, `adalora/init/${site.path}/${role}`, shape, { std });
    const own = config.initLoraWeights === false ? { A: normal("A", A, 1), B: normal("B", B, 1), E: normal("E", E, 1) } : { A: normal("A", A, 0.02), B: normal("B", B, 0.02), E: zerosOf(E) };
    return { ...own, mask: maskOf(site, config) };
  },
  key: (site, role) => `${PREFIX}${site.path}.lora_${role}`,
  forward: ({ A, B, E }, site, use) => use.y.add(dropped(use).matmul(A.T).mul(E.mul(site.scale).reshape([site.r])).matmul(B.T)),
  delta,
  merged: mergedByAdding(delta),
  penalty: ({ A, B }, _site, config, count) => {
    const weight = config.adalora?.orthRegWeight ?? 0;
    return weight === 0 ? null : distance(A.matmul(A.T)).add(distance(B.T.matmul(B))).mul(weight / (2 * count));
  },
};

type Arrays = ReadonlyMap<string, HostArray>;
/** Some rows (axis 0) or columns of a matrix, or a larger matrix that has them at these places and is 0 elsewhere. */
function along({ shape: [n, m], data }: HostArray, axis: 0 | 1, places: readonly number[], size: number | null): HostArray {
  const shape = axis === 0 ? [size ?? places.length, m] : [n, size ?? places.length], out = zerosOf(shape), width = shape[1];
  places.forEach((place, k) => {
    const [from, to] = size === null ? [place, k] : [k, place];
    for (let i = 0; i < (axis === 0 ? m : n); i++) out.data[axis === 0 ? to * width + i : i * width + to] = axis === 0 ? data[from * m + i] : data[i * m + from];
  });
  return out;
}

const axisOf = (role: "A" | "B" | "E"): 0 | 1 => (role === "B" ? 1 : 0);
const placesOf = (mask: readonly boolean[]): readonly number[] => mask.flatMap((kept, i) => (kept ? [i] : []));

/** Tensors of a file in full size: triplets that were given up come back as zeros, so that every module has the rank it started with. */
export function unpackedRanks({ adalora: own }: LoraConfig, tensors: Arrays): Arrays {
  if (own === null || own.rankPattern === null) return tensors;
  const masks = new Map(Object.entries(own.rankPattern));
  return new Map([...tensors].map(([key, array]) => {
    const [, path, role] = /^base_model\.model\.(.*)\.lora_([ABE])(?:\.[^.]+)?$/.exec(key) ?? [], mask = masks.get(path ?? "");
    if (mask === undefined || (role !== "A" && role !== "B" && role !== "E")) return [key, array];
    const places = placesOf(mask), axis = axisOf(role);
    return [key, array.shape[axis] === places.length && array.shape[axis] !== own.initR ? along(array, axis, places, own.initR) : array];
  }));
}

/** Config and tensors as PEFT saves them once ranks were given up: what is left of each module, and rank_pattern. */
export async function packedRanks(attachments: readonly Attachment[], config: LoraConfig, tensors: Arrays): Promise<{ readonly config: LoraConfig; readonly tensors: Arrays }> {
  if (config.adalora === null) return { config, tensors };
  const masks: Record<string, readonly boolean[]> = {}, out = new Map(tensors);
  for (const a of attachments) if (a.method === adalora && a.beside?.["mask"] !== undefined) masks[a.site.path] = Array.from(await a.beside["mask"].data(), (x) => x !== 0);
  if (Object.values(masks).every((mask) => mask.every(Boolean))) return { config: { ...config, adalora: { ...config.adalora, rankPattern: null } }, tensors };
  for (const a of attachments) {
    if (!Object.hasOwn(masks, a.site.path)) continue;
    for (const role of ["A", "B", "E"] as const) {
      const key = keyOf(a, role), array = tensors.get(key);
      if (array !== undefined) out.set(key, along(array, axisOf(role), placesOf(masks[a.site.path]), null));
    }
  }
  return { config: { ...config, adalora: { ...config.adalora, rankPattern: masks } satisfies AdaloraConfig }, tensors: out };
}
