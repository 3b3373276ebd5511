/** Steps of 8-bit optimizers: one dispatch for all leaves, the same codes, scales and parameters as on the CPU. */
import { adapters, webgpu } from "@adjoint/webgpu";
import { type Backend, type Store, getDevice, setDevice, store, tensor } from "@adjoint/tensor";
import { type Optimizer, adamw8bit, lion8bit } from "@adjoint/optim";
import { wasmSync } from "@adjoint/wasm";
import { afterAll, describe, expect, test } from "vitest";

const host = getDevice(), found = (await adapters({ mode: "safe" })).length > 0;
afterAll(() => { setDevice(host); });

const wave = (shape: readonly number[], k: number, size: number): Float32Array => Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.fround(size * Math.sin(i * 0.7 + k) * 10 ** ((i % 7) - 4)));
/** Parameters, codes and scales after three steps. */
async function train(device: Backend, make: () => Optimizer, shapes: readonly (readonly number[])[]): Promise<Record<string, readonly number[]>> {
  setDevice(device);
  const tree = shapes.map((shape, k) => store(tensor(wave(shape, k, 1), { shape }))), o = make().for(tree);
  for (let step = 0; step < 3; step++) await o.step(shapes.map((shape, k) => tensor(wave(shape, k + 5 * step, 0.1), { shape }))).gradNorm.data();
  const out: Record<string, readonly number[]> = Object.fromEntries(await Promise.all(tree.map(async (p, k) => [`p${k}`, [...await p.data()]] as const)));
  for (const [name, leaves] of Object.entries(o.states)) for (const [path, s] of Object.entries(leaves)) out[`${name}.${path}`] = [...await s.data()];
  return out;
}

describe.runIf(found)("software driver", () => {
  // whole blocks, and a last one that is filled up
  test.each([["adamw8bit", () => adamw8bit({ learningRate: 1e-2, maxGradNorm: 1 }), [[8, 576], [33, 150]]], ["lion8bit", () => lion8bit({ learningRate: 1e-2 }), [[8, 576]]]] as const)("%s: three steps are those of the CPU", async (_, make, shapes) => {
    const device = await webgpu({ mode: "safe", allowSoftware: true }), want = await train(wasmSync(), make, shapes), got = await train(device, make, shapes);
    expect(Object.keys(got)).toEqual(Object.keys(want));
    for (const [name, values] of Object.entries(want)) {
      const codes = name.startsWith("state"), top = Math.max(...values.map(Math.abs));
      values.forEach((v, i) => { expect(Math.abs(v - got[name][i]), `${name}[${i}]`).toBeLessThanOrEqual(codes ? 1 : 2e-6 * top); });
      if (codes) expect(values.filter((v, i) => v === got[name][i]).length).toBeGreaterThanOrEqual(0.99 * values.length);
    }
    await device.close();
  });
  test("leaves of whole blocks are one dispatch together", async () => {
    const device = await webgpu({ mode: "safe", allowSoftware: true });
    setDevice(device);
    const many = (k: number): Store[] => Array.from({ length: 12 }, (_, i) => { const shape = [8, 32 * (16 + i)]; return store(tensor(wave(shape, i + k, 0.1), { shape })); });
    const tree = many(0), gradients = many(3), o = adamw8bit().for(tree), step = (): Promise<unknown> => o.step(gradients).gradNorm.data();
    await step();
    const before = device.stats.dispatches;
    await step();
    expect(device.stats.dispatches - before).toBeLessThanOrEqual(5);        // norms, their sum, updates
    await device.close();
  });
});
