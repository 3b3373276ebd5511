/**
 * LoRA that starts away from zero: y = W x + s (B A - B₀ A₀) x with the first factors A₀, B₀ kept, so that the base stays as it is.
 *
 * PiSSA, OLoRA, CorDA and LoRA-GA take s B₀ A₀ out of the layer. PEFT subtracts it from the weight; here it stands beside the factors, which is
 * the same function, and on the disk it is plain LoRA of rank 2r: A' = [A; A₀], B' = [B, -B₀] with alpha doubled (√2 alpha with rsLoRA).
 * Dropout is for B A alone: what the layer gave up is always given up whole.
 */
import { concat, convertArray, type HostArray } from "@adjoint/tensor";
import { type AdditiveMethod, type Application, type Factors, mergedByAdding, type Site } from "../adapter.ts";
import { type Attachment, keyOf } from "../attachments.ts";
import type { LoraConfig } from "../config/config.ts";
import { keepsOrigin } from "../initial/names.ts";
import type { Layer, Pair } from "./layer.ts";
import { PREFIX } from "../files/peft-keys.ts";

const first = ({ A0, B0 }: Factors): Factors => ({ A: A0, B: B0 });
const whole = ({ x, key: _, ...use }: Application): Application => ({ ...use, x, key: null, dropout: 0 });

/**
 * The method on a kind of layer. At the start both parts are the same numbers, so the output is the base's to the last bit; one pair of products over
 * [A; A₀] and [B, -B₀] is not faster (18.9 and 19.0 ms a step of 256 x 768 with r 32) and computes gradients that nobody wants.
 */
export const originOn = ({ shapes, init, part, delta }: Layer): AdditiveMethod => {
  const change = (p: Factors, site: Site): ReturnType<Layer["delta"]> => delta(p, site).sub(delta(first(p), site));
  return {
    name: "lora from an origin",
    shapes: (site, config) => ({ ...shapes(site, config) }),
    init,
    forward: (p, site, use) => use.y.add(part(p, site, use).sub(part(first(p), site, whole(use)))),
    delta: change,
    merged: mergedByAdding(change),
  };
};

/** The layer without what its initialisation took out of it, for methods that look at W + ΔW as a whole (DoRA). */
export const originLayer = (layer: Layer): Layer => ({
  ...layer,
  delta: (p, site) => layer.delta(p, site).sub(layer.delta(first(p), site)),
  lost: (p, site, use) => layer.part(first(p), site, whole(use)),
  factors: ({ A, B, A0, B0 }) => ({ A: concat([A, A0]), B: concat([B, B0.neg()], 1) }),
});

/** Roles of the first factors. */
const roles = ["A0", "B0"] as const;
/** The name of a first factor in `tuned.origin()` and in adapter_origin.safetensors. */
export const originKey = (path: string, role: (typeof roles)[number]): string => `${PREFIX}${path}.lora_${role}.weight`;

/** The first factors of an attachment, by name; none where it starts from zero. */
export const originOf = ({ site, beside = {} }: Pick<Attachment, "site" | "beside">): readonly (readonly [string, NonNullable<Attachment["beside"]>[string]])[] =>
  roles.flatMap((role) => (beside[role] === undefined ? [] : [[originKey(site.path, role), beside[role]] as const]));

const f32 = ({ dtype, shape, data }: HostArray): HostArray => ({ dtype: "f32", shape, data: convertArray(data, dtype, "f32") });

/** [A; A₀] and [B, -B₀] of plain arrays. */
export function stacked(now: Pair<HostArray>, origin: Pair<HostArray>): Pair<HostArray> {
  const [A, A0, B, B0] = [now.A, origin.A, now.B, origin.B].map(f32), [r, n] = A.shape, [m] = B.shape;
  const a = new Float32Array(2 * r * n), b = new Float32Array(2 * r * m);
  a.set(Float32Array.from(A.data));
  a.set(Float32Array.from(A0.data), r * n);
  for (let i = 0; i < m; i++) for (let j = 0; j < r; j++) {
    b[i * 2 * r + j] = B.data[i * r + j];
    b[i * 2 * r + r + j] = -B0.data[i * r + j];
  }
  return { A: { dtype: "f32", shape: [2 * r, n], data: a }, B: { dtype: "f32", shape: [m, 2 * r], data: b } };
}

/** Tensors as plain LoRA has them: every attachment with an origin in rank 2r, all others as they are. */
export async function convertedTensors(attachments: readonly Attachment[], tensors: ReadonlyMap<string, HostArray>): Promise<ReadonlyMap<string, HostArray>> {
  const out = new Map(tensors);
  for (const a of attachments) {
    if (originOf(a).length === 0 || a.beside === undefined) continue;
    const [keyA, keyB] = [keyOf(a, "A"), keyOf(a, "B")], A = tensors.get(keyA), B = tensors.get(keyB);
    if (A === undefined || B === undefined) continue;
    const wide = stacked({ A, B }, { A: await a.beside["A0"].host(), B: await a.beside["B0"].host() });
    out.set(keyA, wide.A).set(keyB, wide.B);
  }
  return out;
}

const scaled = (pattern: Readonly<Record<string, number>>, by: number): Readonly<Record<string, number>> => Object.fromEntries(Object.entries(pattern).map(([k, v]) => [k, by * v]));

/**
 * The config of these tensors: ranks doubled, alpha times 2 (times √2 with rsLoRA, in patterns too, where PEFT cannot), plain initialisation.
 * Initialisations whose factors are complete by themselves (EVA, orthogonal, MiCA) keep their name; LoftQ's factors fit the codes they were made with, so
 * a reader must not make them again and it is written as true.
 */
export function convertedConfig(config: LoraConfig): LoraConfig {
  const rule = config.initLoraWeights;
  if (rule === "loftq") return { ...config, initLoraWeights: true, loftqConfig: null };
  if (!keepsOrigin(rule)) return config;
  const by = config.scaling === "rslora" ? Math.SQRT2 : 2;
  return {
    ...config, initLoraWeights: true, cordaConfig: null, loraGaConfig: null,
    r: 2 * config.r, loraAlpha: by * config.loraAlpha, rankPattern: scaled(config.rankPattern, 2), alphaPattern: scaled(config.alphaPattern, by),
  };
}
