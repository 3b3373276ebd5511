import { describe, expect, it } from "vitest";
import { createReference, scope, setDevice, type Tensor } from "@adjoint/tensor";
import { checkpoint, gradients } from "@adjoint/autograd";
import { loadModel } from "@adjoint/models";
import { fixture, golden, goldenTensors, rowsOf } from "./golden.ts";

const read = async (tree: Readonly<Record<string, Tensor | null>>): Promise<Record<string, number[]>> =>
  Object.fromEntries(await Promise.all(Object.entries(tree).map(async ([name, g]) => [name, g ? [...(await g.data())] : []] as const)));

for (const device of [createReference(), createReference({ name: "fused", fuse: true, arena: true })]) describe(device.name, () => {
  for (const name of ["tiny", "tiny-tied"]) it(`${name}: gradients of every weight are torch's, and checkpointing changes nothing`, async () => {
    setDevice(device);
    const model = await loadModel(fixture(`llama/${name}`)), batch = rowsOf(golden<{ rows: number[][] }>(`full/${name}`).rows), want = goldenTensors(`full/${name}`);
    const parameters = model.parameters(), got = await read(scope(() => gradients(model.loss(batch), parameters)));
    expect(Object.keys(got).sort()).toEqual([...want.keys()].filter((k) => k.startsWith("grad/")).map((k) => k.slice(5)).sort());
    for (const [key, g] of Object.entries(got)) {
      const w = await want.get(`grad/${key}`)!.data(), scale = Math.hypot(...w);
      expect(Math.hypot(...g.map((x, i) => x - w[i])) / scale, key).toBeLessThan(1e-5);
    }
    const again = await read(scope(() => gradients(model.loss(batch, { checkpoint }), parameters)));
    if (device.name === "reference") expect(again).toEqual(got);
    else for (const key of Object.keys(got)) again[key].forEach((x, i) => { expect(Math.abs(x - got[key][i]), key).toBeLessThan(1e-6); });
  });
});
