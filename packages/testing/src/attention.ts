/** Subjects for attention: positions, windows, marks, grouped heads and rows that see nothing, in every combination. */
import fc from "fast-check";
import { type Domain, type Tensor, composedAttention, concat, fromHost, packedAttention, scalar } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { type Draw, bulk, draws, hostOf } from "./arbitraries.ts";
import { type Sample, type Subject, sample } from "./subjects.ts";

interface Sizes { readonly heads: readonly number[]; readonly lengths: readonly number[]; readonly keys: "tokens" | "heads"; readonly most: number }
type Make = (shape: readonly number[], domain?: Domain) => fc.Arbitrary<Draw>;
const marks: Domain = { low: 0, high: 1, integer: true, dtype: "i32" };

/** Attention of drawn sizes; `of` says what of it is looked at. */
function samples({ heads, lengths, keys, most }: Sizes, make: Make, gradient = false): fc.Arbitrary<Sample> {
  const length = fc.constantFrom(...lengths);
  return fc.record({ B: fc.constantFrom(1, 2), KV: fc.constantFrom(1, 2), G: fc.constantFrom(1, 2, 3), T: length, S: length, d: fc.constantFrom(...heads) })
    .filter(({ B, KV, G, T, S, d }) => B * KV * G * T * S * d <= most)
    .chain(({ B, KV, G, T, S, d }) => {
      const cells = keys === "tokens" ? [B, S, KV, d] : [B, KV, S, d];
      return fc.record({
        xs: fc.tuple(make([B, T, KV * G, d]), make(cells), make(cells), draws([B, T], marks), draws([B, S], marks)),
        causal: fc.boolean(), window: fc.constantFrom(0, 0, 1, 2, Math.ceil(S / 2)), offset: fc.constantFrom(null, 0, 1, Math.max(0, S - T)), marked: fc.boolean(),
      });
    })
    .map(({ xs, causal, window, offset, marked }) => sample("attention", marked ? xs : xs.slice(0, 3), ([q, k, v, queries, seen]) => {
      const y = composedAttention(q, k, v, { causal, window, keys, offset: offset === null ? null : scalar(offset, "i32"), marks: marked ? { queries, keys: seen } : null });
      if (!gradient) return y;
      return concat(gradients(weighed(y), [q, k, v]).flatMap((g) => (g ? [g.reshape([-1])] : [])));
    }, JSON.stringify({ causal, window, offset, keys })));
}
/** Attention over one tensor that holds queries, keys and values. */
function packed({ heads, lengths, most }: Omit<Sizes, "keys">, make: Make, gradient = false): fc.Arbitrary<Sample> {
  return fc.record({ B: fc.constantFrom(1, 2), KV: fc.constantFrom(1, 2), G: fc.constantFrom(1, 2, 3), T: fc.constantFrom(...lengths), d: fc.constantFrom(...heads) })
    .filter(({ B, KV, G, T, d }) => B * KV * G * T * T * d <= most)
    .chain(({ B, KV, G, T, d }) => fc.record({ G: fc.constant(G * KV), xs: fc.tuple(make([B, T, KV * (G + 2), d]), draws([B, T], marks)), causal: fc.boolean(), window: fc.constantFrom(0, 0, 1, 3), marked: fc.boolean() }))
    .map(({ G, xs, causal, window, marked }) => sample("packedAttention", marked ? xs : xs.slice(0, 1), ([x, own]) => {
      const y = packedAttention(x, G, { causal, window, marks: marked ? { queries: own, keys: own } : null });
      return gradient ? gradients(weighed(y), [x])[0]! : y;
    }, JSON.stringify({ heads: G, causal, window })));
}
/** Σ of y with a weight of its own for each element. */
function weighed(y: Tensor): Tensor {
  return y.mul(fromHost(hostOf({ shape: y.shape, dtype: y.dtype, values: Array.from({ length: y.size }, (_, i) => (((i * 7) % 16) - 7.5) / 8) }, "f32"))).sum();
}
const few = { heads: [1, 3], lengths: [1, 2, 3, 5], most: 400 }, many = { heads: [8, 32, 64], lengths: [1, 9, 33, 65], most: 60_000 };

/** Small sizes: values, gradients of both orders, layouts. */
export const attentionSubjects: readonly Subject[] = [
  { name: "attention", samples: samples({ ...few, keys: "tokens" }, draws), smooth: true },
  { name: "attention over caches", samples: samples({ ...few, keys: "heads" }, draws), smooth: true },
  { name: "attention of one packed tensor", samples: packed(few, draws), smooth: true },
];
/** Sizes around tiles: values, and values of the gradients. */
export const largeAttentionSubjects: readonly Subject[] = [
  { name: "large attention", samples: samples({ ...many, keys: "tokens" }, bulk), smooth: false },
  { name: "large attention over caches", samples: samples({ ...many, keys: "heads" }, bulk), smooth: false },
  { name: "large attention's gradients", samples: samples({ ...many, keys: "tokens" }, bulk, true), smooth: false },
  { name: "large attention of one packed tensor", samples: packed(many, bulk), smooth: false },
  { name: "large attention of one packed tensor: gradients", samples: packed(many, bulk, true), smooth: false },
  { name: "large attention's gradients over caches", samples: samples({ ...many, keys: "heads" }, bulk, true), smooth: false },
];
