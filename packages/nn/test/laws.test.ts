/** The conformance suite over the layers that are compositions: values, gradients of both orders, layouts, fusion. */
import { describe, it } from "vitest";
import fc from "fast-check";
import { type Tensor, createReference, fromHost } from "@adjoint/tensor";
import { type Draw, type Testable, conform, draws, hostOf, sample } from "@adjoint/testing";
import { allOf, attention, causalMask, nextTokenLoss, paddingMask, rope, segmentMask } from "@adjoint/nn";

const small = fc.constantFrom(1, 2, 3), even = fc.constantFrom(2, 4, 6), flags = { low: 0, high: 1, integer: true, dtype: "i32" } as const;

const subjects: readonly Testable[] = [
  {
    name: "rope", smooth: true,
    samples: fc.tuple(small, small, small, even, fc.boolean()).chain(([B, T, H, d, shared]) =>
      fc.tuple(draws([B, T, H, d]), draws([shared ? 1 : B, T, d / 2]), draws([shared ? 1 : B, T, d / 2])))
      // the tables are no parameters: rope gives them no gradient, so the law must not ask for one
      .map((xs) => sample("rope", [xs[0]], ([x]) => rope(x, constantLike(x, xs[1]), constantLike(x, xs[2])))),
  },
  {
    name: "attention", smooth: true,
    samples: fc.tuple(small, small, small, small, small, even).chain(([B, KV, G, T, extra, d]) => {
      const S = T + extra - 1;
      return fc.tuple(draws([B, KV, G, T, d]), draws([B, KV, S, d]), draws([B, KV, S, 3]), draws([B, S], flags), fc.boolean());
    }).map(([q, k, v, real, masked]) => sample("attention", [q, k, v, real], ([a, b, c, m]) => attention(a, b, c, { mask: masked ? allOf([causalMask(a.shape[3], b.shape[2]), paddingMask(m)]) : null }), masked ? "causal, padded" : "")),
  },
  {
    name: "packed attention", smooth: true,
    samples: fc.tuple(small, small, fc.constantFrom(1, 2, 3, 5)).chain(([B, G, T]) => fc.tuple(draws([B, 2, G, T, 2]), draws([B, 2, T, 2]), draws([B, 2, T, 2]), draws([B, T], { ...flags, high: 2 })))
      .map((xs) => sample("attention in segments", xs, ([q, k, v, s]) => attention(q, k, v, { mask: allOf([causalMask(q.shape[3]), segmentMask(s)]) }))),
  },
  {
    name: "nextTokenLoss", smooth: true,
    samples: fc.tuple(small, fc.constantFrom(1, 2, 3, 5), fc.constantFrom(2, 3, 7)).chain(([B, T, V]) => fc.tuple(draws([B, T, V]), draws([B, T], { low: -1, high: V - 1, integer: true, dtype: "i32" })))
      .map((xs) => sample("nextTokenLoss", xs, ([logits, labels]) => nextTokenLoss(logits, labels))),
  },
];

const constantLike = (x: Tensor, d: Draw): Tensor => fromHost(hostOf(d, x.dtype));

for (const device of [createReference(), createReference({ name: "fused", fuse: true, arena: true })]) {
  const { laws } = conform(device, subjects, { runs: 8, graphs: 0 });
  describe(device.name, () => { for (const law of laws) if (law.kind !== "random bits") it(law.name, () => law.check()); });
}
