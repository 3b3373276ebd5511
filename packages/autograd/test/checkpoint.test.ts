/** Recomputation: the planned peak falls, the number of kernels rises, the gradient keeps its bits. */
import { expect, it } from "vitest";
import { type Store, type Tensor, createReference, gelu, planOf, setDevice, store, tensor } from "@adjoint/tensor";
import { checkpoint, gradients } from "@adjoint/autograd";

const N = 24, D = 4, LAYERS = 8;
/** Each layer widens eightfold inside: that is what recomputation need not keep. */
function network(use: boolean): { loss: Tensor; weights: Store[] } {
  const weights = Array.from({ length: LAYERS * 2 }, (_, i) => store(tensor(Array.from({ length: D * 8 * D }, (_u, j) => ((i * 31 + j * 17) % 13) / 64 - 0.1), { shape: i % 2 ? [8 * D, D] : [D, 8 * D] })));
  let x = tensor(Array.from({ length: N * D }, (_, j) => ((j * 7) % 11) / 16 - 0.3), { shape: [N, D] });
  for (let i = 0; i < LAYERS; i++) {
    const block = (h: Tensor): Tensor => h.add(gelu(h.matmul(weights[2 * i])).matmul(weights[2 * i + 1]));
    x = (use ? checkpoint(block) : block)(x);
  }
  return { loss: x.square().mean(), weights };
}

it("checkpoint: planned peak falls, kernel count rises, gradients are bit-equal", async () => {
  for (const fuse of [false, true]) {
    setDevice(createReference({ fuse, name: `reference ${String(fuse)}` }));
    const plain = network(false), light = network(true);
    const g = gradients(plain.loss, plain.weights) as Tensor[], h = gradients(light.loss, light.weights) as Tensor[];
    const a = planOf([plain.loss, ...g]).spec, b = planOf([light.loss, ...h]).spec;
    const answers = a.buffers.filter((x) => x.kind === "output").reduce((n, x) => n + x.length * 4, 0);
    const inner = N * 8 * D * 4, outer = N * D * 4;
    // without: every layer keeps at least the wide activation and its input; with: the layers' inputs and one layer's inside
    expect(a.arenaBytes - answers).toBeGreaterThan(LAYERS * (inner + outer));
    expect(b.arenaBytes - answers).toBeLessThan(LAYERS * outer + 8 * inner);
    expect(b.kernels.length).toBeGreaterThan(a.kernels.length);
    if (!fuse) for (let i = 0; i < g.length; i++) expect([...(await h[i].data())].join()).toBe([...(await g[i].data())].join());
  }
});
