/** Initialisations that look at the model: what each promises, whatever the numbers. */
import { gradients } from "@adjoint/autograd";
import type { Context } from "@adjoint/nn";
import { Conv1D, Embedding, Linear } from "@adjoint/nn";
import { dequantize, quantize, quantizedOf, quantizedWeight } from "@adjoint/quant";
import { type Backend, clearPlans, getDevice, type HostArray, hostNormal, type Matrix, matrixOf, product, setDevice, svd, store, type Tensor, tensor } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { createLora, type CreateLoraOptions, type InitialData, initialisations, loftq, lora, loraConfig, readLoraConfig, type Tuned, writeLoraConfig } from "../src/index.ts";

const normal = (name: string, shape: readonly number[], std = 0.5, seed = 1): HostArray => hostNormal(seed, name, shape, { std });

/** down(tanh(up x) * gate x) + x, where gate stores its weight (in, out). */
class Net {
  readonly up: Linear;
  readonly gate: Conv1D;
  readonly down: Linear;
  constructor(width = 8, inner = 12, seed = 1) {
    this.up = new Linear(store(normal("up", [inner, width], 0.5, seed)), store(normal("bias", [inner], 0.5, seed)));
    this.gate = new Conv1D(store(normal("gate", [width, inner], 0.5, seed)), store(normal("gate bias", [inner], 0.5, seed)));
    this.down = new Linear(store(normal("down", [width, inner], 0.5, seed)));
  }
  forward(x: Tensor, context: Context = {}): Tensor {
    return this.down.forward(this.up.forward(x, context).tanh().mul(this.gate.forward(x, context)), context).add(x);
  }
  loss(x: Tensor, context: Context = {}): Tensor {
    return this.forward(x, context).square().mean();
  }
}
const all = ["up", "gate", "down"] as const;
const inputs = (n: number, width = 8, seed = 5): Tensor => tensor(normal("x", [n, width], 1, seed).data, { shape: [n, width] });

const data: InitialData<Tensor> = {
  batches: [inputs(40, 8, 1), inputs(40, 8, 2)],
  gradients: async (weights) => {
    throw new Error(`nobody gave gradients of ${[...weights.keys()].join()}`);
  },
};
/** Gradients of the mean loss of a net, as a caller takes them. */
const gradientsOf = (net: Net): InitialData<Tensor>["gradients"] => async (weights) => {
  const names = [...weights.keys()], g = gradients(net.loss(inputs(16)), names.map((name) => weights.get(name) ?? tensor([0])));
  return new Map(await Promise.all(names.map(async (name, i) => [name, await (g[i] ?? tensor([0])).host()] as const)));
};
const make = (net: Net, options: CreateLoraOptions, more: InitialData<Tensor> = {}): Promise<Tuned<Net>> => createLora(net, { r: 2, loraAlpha: 6, targetModules: all, ...options }, { ...data, gradients: gradientsOf(net), ...more });

const origins = ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"] as const, zeros = ["orthogonal", "eva", "mica"] as const;
const numbers = async (t: Tensor): Promise<number[]> => Array.from(await t.data());
const most = (v: readonly number[]): number => Math.max(...v.map(Math.abs));
const worst = (a: readonly number[], b: readonly number[]): number => most(a.map((x, i) => x - b[i])) / most(b);
const norm = (m: Matrix): number => Math.hypot(...m.data);
const minus = (a: Matrix, b: Matrix): Matrix => ({ ...a, data: a.data.map((x, i) => x - b.data[i]) });
/** s B A of one module, from its stores. */
async function deltaOf(tuned: Tuned<Net>, path: string): Promise<{ A: Matrix; B: Matrix; delta: Matrix; scale: number }> {
  const a = tuned.attachments.find(({ site }) => site.path === path);
  if (a === undefined) throw new Error(path);
  const A = matrixOf(await a.factors["A"].host()), B = matrixOf(await (a.factors["B"] ?? a.beside?.["B"]).host()), BA = product(B, A);
  return { A, B, scale: a.site.scale, delta: { ...BA, data: BA.data.map((x) => x * a.site.scale) } };
}

const before = getDevice();
const devices: Record<string, () => Promise<Backend>> = { reference: async () => before, wasm: async () => wasm({ threads: 1 }) };
afterAll(() => { clearPlans(); setDevice(before); });

describe.each(Object.keys(devices))("the model at the start, on %s", (device) => {
  it.each([...origins, ...zeros])("computes what the base computes: %s", async (initLoraWeights) => {
    setDevice(await devices[device]());
    const net = new Net(), tuned = await make(net, { initLoraWeights }), x = inputs(5), y = await numbers(net.forward(x)), ours = await numbers(tuned.forward(x));
    if (initLoraWeights === "orthogonal") expect(worst(ours, y)).toBeLessThan(1e-6);
    else expect(ours).toEqual(y);
    const base = new Net(); // the weights are the same objects with the same numbers
    for (const path of all) expect(await numbers(net[path].weight)).toEqual(await numbers(base[path].weight));
    const { A, B } = await deltaOf(tuned, "up");
    if (initLoraWeights !== "eva" && initLoraWeights !== "mica") expect(Math.min(norm(A), norm(B))).toBeGreaterThan(0.01);
  });
});
