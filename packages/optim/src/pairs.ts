/** Pairs of low-rank factors, found by their paths. */
import { ConfigError, type Tensor } from "@adjoint/tensor";
import type { ByPath } from "./transforms.ts";
import type { Leaves } from "./transform.ts";

/** A (r, in) and B (out, r) of one adapter, by path: ΔW = s B A. */
export interface Pair {
  readonly a: string;
  readonly b: string;
  /** an embedding's adapter starts with A = 0 and B random, all others the other way round */
  readonly embedding: boolean;
}

/** The partner's path where a path holds a factor: lora_A and lora_B, or lora_embedding_A and lora_embedding_B. */
export function partnerOf(path: string): { readonly role: "A" | "B"; readonly embedding: boolean; readonly partner: string } | null {
  const found = /(^|\.)(lora|lora_embedding)_([AB])(?=\.|$)/.exec(path);
  if (found === null) return null;
  const role = found[3] === "A" ? "A" : "B", at = found.index + found[0].length - 1;
  return { role, embedding: found[2] === "lora_embedding", partner: `${path.slice(0, at)}${role === "A" ? "B" : "A"}${path.slice(at + 1)}` };
}
/** Whether a path holds a low-rank factor. */
export const isFactor = (path: string): boolean => partnerOf(path) !== null;

/** All pairs whose two factors are matrices among the leaves, in their order. */
export function pairsOf(leaves: Leaves): readonly Pair[] {
  return Object.keys(leaves).flatMap((a): Pair[] => {
    const p = partnerOf(a);
    return p?.role === "A" && p.partner in leaves && leaves[a].rank === 2 && leaves[p.partner].rank === 2 ? [{ a, b: p.partner, embedding: p.embedding }] : [];
  });
}

/** Refuses a tree without pairs. */
export function needPairs(op: string, leaves: Leaves): readonly Pair[] {
  const pairs = pairsOf(leaves);
  if (pairs.length === 0) throw new ConfigError(`${op}: there is no pair of lora_A and lora_B`, { op, key: "lora_A", value: Object.keys(leaves).slice(0, 3), fix: "give it the tree of an adapter (tuned.adapter), or use adamw" });
  return pairs;
}

/** The adapters' scale s = alpha / r (or alpha / √r), which the factor 1/s² needs; there is no default, for a wrong one is not seen. */
export function checkedScaling(op: string, scaling: ByPath | undefined): (path: string) => number {
  const at = (path: string): number => {
    const s = typeof scaling === "function" ? scaling(path) : scaling;
    if (s === undefined || !(Number.isFinite(s) && s !== 0)) throw new ConfigError(`${op}: the adapter's scaling${s === undefined ? " is missing" : ` must be a finite number other than 0, got ${s}`}`, { op, key: "scaling", value: s, fix: "give loraAlpha / r (loraAlpha / √r with useRslora), or a function of the path of lora_B" });
    return s;
  };
  if (typeof scaling !== "function") at("");
  return at;
}

/** XᵀX of B, or XXᵀ of A: r x r. */
export const gramOf = (pair: Pair, leaves: Leaves): { readonly ofA: Tensor; readonly ofB: Tensor } => ({ ofA: leaves[pair.a].matmul(leaves[pair.a].T), ofB: leaves[pair.b].T.matmul(leaves[pair.b]) });
