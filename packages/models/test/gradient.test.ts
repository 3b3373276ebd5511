import { describe, expect, it } from "vitest";
import { createReference, scope, setDevice, type Tensor } from "@adjoint/tensor";
import { checkpoint, gradients } from "@adjoint/autograd";
import { wasmSync } from "@adjoint/wasm";
import type { Context } from "@adjoint/nn";
import { initModel, loadModel } from "@adjoint/models";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { tensorsOf, rowsOf } from "./golden.ts";

const read = async (tree: Readonly<Record<string, Tensor | null>>): Promise<Record<string, number[]>> =>
  Object.fromEntries(await Promise.all(Object.entries(tree).map(async ([name, g]) => [name, g ? [...(await g.data())] : []] as const)));

for (const device of [createReference(), createReference({ name: "fused", fuse: true, arena: true }), wasmSync()]) describe(device.name, () => {
  for (const name of ["tiny", "tiny-tied"]) it(`${name}: gradients of every weight are torch's, and checkpointing changes nothing`, async () => {
    setDevice(device);
    const model = await loadModel(fixture(`llama/${name}`)), batch = rowsOf(golden<{ rows: number[][] }>(`full/${name}`).rows), want = tensorsOf(`full/${name}`);
    const parameters = model.parameters(), got = await read(scope(() => gradients(model.loss(batch), parameters)));
    expect(Object.keys(got).sort()).toEqual([...want.keys()].filter((k) => k.startsWith("grad/")).map((k) => k.slice(5)).sort());
    for (const [key, g] of Object.entries(got)) {
      const w = await want.get(`grad/${key}`)!.data(), scale = Math.hypot(...w);
      expect(Math.hypot(...g.map((x, i) => x - w[i])) / scale, key).toBeLessThan(1e-5);
    }
    const again = await read(scope(() => gradients(model.loss(batch, { checkpoint }), parameters)));
    if (device.name !== "fused") expect(again).toEqual(got);                     // the fused reference rounds less often
    else for (const key of Object.keys(got)) again[key].forEach((x, i) => { expect(Math.abs(x - got[key][i]), key).toBeLessThan(1e-6); });
  });
});

it("attention_dropout draws in training only, needs a key, and draws the same when layers are computed again", async () => {
  setDevice(wasmSync());
  const model = initModel({ model_type: "llama", vocab_size: 17, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 2, num_attention_heads: 2, attention_dropout: 0.5, initializer_range: 0.5 }, 3), batch = rowsOf([[1, 2, 3, 4, 5, 6]]);
  const run = (context: Context): Promise<Record<string, number[]>> => read(scope(() => { const loss = model.loss(batch, context); return { loss, ...gradients(loss, model.parameters()) }; }));
  const train = { train: true, key: { seed: 1, stream: "dropout" } }, dropped = await run(train);
  expect(await run({ ...train, checkpoint })).toEqual(dropped);
  expect(await run({ ...train, key: { ...train.key, seed: 2 } })).not.toEqual(dropped);
  expect((await run({})).loss).not.toEqual(dropped.loss);
  expect(() => model.loss(batch, { train: true })).toThrow("attention_dropout");
});
