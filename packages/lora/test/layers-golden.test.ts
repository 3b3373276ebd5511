/** LoRA, DoRA and lora_bias on single layers of every kind: outputs, gradients, magnitudes at the start and merged weights of PEFT. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { Conv1D, Conv1d, Conv2d, Embedding, Linear, type Context } from "@adjoint/nn";
import { type Backend, clearPlans, createReference, fromHost, getDevice, type HostArray, setDevice, type Store, store, type Tensor, tensor } from "@adjoint/tensor";
import { golden, goldenTensors } from "@adjoint/testing/fixtures";
import { wasm } from "@adjoint/wasm";
import { camelCase } from "../src/config/config.ts";
import { createLora, lora, type LoraOptions, parametersOf, tensorsOf, type Tuned } from "../src/index.ts";

interface Case { readonly kind: string; readonly options: Readonly<Record<string, boolean | number>>; readonly geometry: { readonly stride?: number[]; readonly padding?: number[]; readonly groups?: number } }
const { r, alpha, cases } = golden<{ r: number; alpha: number; cases: Record<string, Case> }>("dora"), found = goldenTensors("dora");
const arrayOf = (name: string): HostArray => { const a = found.get(name); if (a === undefined) throw new Error(`${name} is not in the fixture`); return a; };
const namesBelow = (prefix: string): string[] => [...found.keys()].filter((k) => k.startsWith(prefix)).map((k) => k.slice(prefix.length));

type One = Linear | Conv1D | Embedding | Conv1d | Conv2d;
interface Net { readonly layer: One; forward(x: Tensor, context?: Context): Tensor }
function layerOf(name: string): One {
  const { kind, geometry } = cases[name], at = (p: string): Store => store(arrayOf(`${name}/base/${p}`), p), bias = found.has(`${name}/base/bias`) ? at("bias") : null;
  switch (kind) {
    case "Linear": return new Linear(at("weight"), bias);
    case "Conv1D": return new Conv1D(at("weight"), bias);
    case "Embedding": return new Embedding(at("weight"));
    case "Conv1d": return new Conv1d(at("weight"), bias, geometry);
    case "Conv2d": return new Conv2d(at("weight"), bias, geometry);
    default: throw new Error(kind);
  }
}
async function tunedOf(name: string): Promise<Tuned<Net>> {
  const layer = layerOf(name), given: LoraOptions = Object.fromEntries(Object.entries(cases[name].options).map(([k, v]) => [camelCase(k), v])), options = { ...given, r, loraAlpha: alpha, targetModules: ["layer"] };
  const net: Net = { layer, forward: (x, context = {}) => layer.forward(x, context) };
  if (!found.has(`${name}/origin/A`)) return lora(net, options);
  return createLora(net, options, { origin: new Map((["A", "B"] as const).map((role) => [`base_model.model.layer.lora_${role}0.weight`, arrayOf(`${name}/origin/${role}`)])) });
}
function fill(tuned: Tuned<Net>, name: string): Tuned<Net> {
  expect([...tuned.tensors().keys()].sort()).toEqual(namesBelow(`${name}/adapter/`).sort());
  for (const [key, s] of tuned.tensors()) s.set(arrayOf(`${name}/adapter/${key}`));
  return tuned;
}
/** The output with dropout, where the mask is PEFT's: the input is dropped already, and nothing more is. */
function masked(tuned: Tuned<Net>, x: Tensor, mask: Tensor): Tensor {
  const { layer } = tuned.base, [a] = tuned.attachments;
  return a.method.forward(tensorsOf(a), a.site, { x: x.mul(mask), y: layer.forward(x), module: layer, frozen: parametersOf(layer), key: { seed: 1, stream: "d", step: tensor([0], { dtype: "u32" }).reshape([]) }, dropout: 0 });
}
async function expectNear(actual: Tensor | null, name: string, bound = 1e-5): Promise<void> {
  const a = actual === null ? [] : [...(await actual.data())], { data } = arrayOf(name), top = Math.max(1, ...Array.from(data, Math.abs));
  expect(a.length, name).toBe(data.length);
  a.forEach((v, i) => { expect(Math.abs(v - data[i]), `${name}[${i}]`).toBeLessThan(bound * top); });
}

const before = getDevice();
const devices: [string, () => Promise<Backend>][] = [["reference", () => Promise.resolve(createReference())], ["wasm", () => wasm({ threads: 1 })]];
describe.each(devices)("equals PEFT on the %s device", (_, make) => {
  beforeAll(async () => { setDevice(await make()); });
  afterAll(() => { clearPlans(); setDevice(before); });
  it.each(Object.keys(cases))("%s", async (name) => {
    const tuned = await tunedOf(name), { layer } = tuned.base, magnitude = [...tuned.tensors()].find(([key]) => key.endsWith("lora_magnitude_vector"))?.[1];
    expect(magnitude !== undefined).toBe(found.has(`${name}/start`));
    if (magnitude !== undefined) await expectNear(magnitude, `${name}/start`);
    fill(tuned, name);
    const ids = cases[name].kind === "Embedding", x = ids ? fromHost(arrayOf(`${name}/x`)) : store(arrayOf(`${name}/x`)), mask = found.get(`${name}/mask`);
    const y = mask === undefined ? tuned.forward(x) : masked(tuned, x, fromHost(mask)), d = gradients(y.mul(fromHost(arrayOf(`${name}/v`))).sum(), { ...Object.fromEntries(tuned.tensors()), ...(ids ? {} : { x }) });
    for (const [key, g] of Object.entries(d)) await expectNear(g, key === "x" ? `${name}/grad-x` : `${name}/grad/${key}`);
    await expectNear(y, `${name}/y`);
    if (!namesBelow(`${name}/`).some((k) => k.startsWith("merged/"))) { expect(() => tuned.mergedWeights()).toThrow(/groups/); return; }
    await tuned.merge();
    for (const [p, t] of Object.entries(parametersOf(layer))) await expectNear(t, `${name}/merged/${p}`);
  });
});
