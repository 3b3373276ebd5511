/** QLoRA on the GPU: a step over a base in codes is one submit that makes nothing and moves less; in the long form its losses are the reference's. */
import { gradients } from "@adjoint/autograd";
import { lora } from "@adjoint/lora";
import { buildModel, parameterShapes, parseConfig } from "@adjoint/models";
import { adamw } from "@adjoint/optim";
import { quantize, quantizedWeight } from "@adjoint/quant";
import { type Backend, compile, createReference, fromHost, hostNormal, memory, setDevice, store, type Tensor } from "@adjoint/tensor";
import { expect, test } from "vitest";
import { WebGpuBackend } from "../src/backend.ts";
import { webgpu } from "../src/index.ts";
import { Session } from "../src/session.ts";
import { lowerSmall } from "./codes.ts";

const none = await webgpu({ backend: "null" }).catch(() => null);

/** One step of LoRA on all linear layers of a random model, its projections in NF4 with scales quantized again where `codes`. */
function stepOf(device: Backend, width: number, codes: boolean): () => Tensor {
  setDevice(device);
  const config = parseConfig({ model_type: "llama", vocab_size: 64, hidden_size: width, intermediate_size: 2 * width, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 4 }), shapes = parameterShapes(config);
  const model = buildModel(config, (name) => {
    const shape = shapes.get(name)!, h = hostNormal(1, name, shape, { std: 0.1 });
    return codes && name.includes("proj") ? quantizedWeight(quantize(Float32Array.from(h.data), shape, { format: "nf4", doubleQuant: true }), name) : store(fromHost(h), name);
  });
  const tuned = lora(model, { r: 4, loraAlpha: 8, targetModules: "all-linear", seed: 1 }), opt = adamw({ learningRate: 1e-2 }).for(tuned.adapter);
  const step = compile((inputIds: Tensor) => {
    const loss = tuned.loss({ inputIds, labels: inputIds });
    opt.step(gradients(loss, tuned.adapter));
    return loss;
  });
  const ids = fromHost({ dtype: "i32", shape: [2, 16], data: Int32Array.from({ length: 32 }, (_, i) => (i * 7) % 64) });
  return () => step(ids);
}

test.runIf(none !== null)("a step is one submit, makes nothing, and no kernel reads or writes a weight as numbers", async () => {
  const moved: number[] = [];
  for (const [codes, gpu] of [[false, none!], [true, await webgpu({ backend: "null" })]] as const) {
    const step = stepOf(gpu, 64, codes);
    for (let i = 0; i < 3; i++) await step().data();
    const start = { ...gpu.stats };
    await step().data();
    const end = gpu.stats;
    expect(end.submits - start.submits).toBe(1);
    for (const key of ["buffersCreated", "bindGroupsCreated", "pipelines", "plans", "readbacksCreated"] as const) expect(end[key], key).toBe(start[key]);
    // r (in + out) of each projection is trained, and has two moments
    const { adapters, optimizer, state } = gpu.memoryByClass, trained = 4 * 4 * (4 * 128 + 3 * 192);
    expect([adapters >= trained, adapters < 4 * trained, optimizer >= 2 * trained, optimizer < 8 * trained, state]).toEqual([true, true, true, true, 0]);
    expect(memory(gpu).stores).toMatchObject({ adapter: trained, optimizer: 2 * trained });
    // seven projections of 4 x 64 x 64 + 3 x 2 x 64 x 64 numbers
    const weights = 10 * 64 * 64 * 4, taken = gpu.memoryByClass.parameters;
    expect(taken).toBeGreaterThan(codes ? weights / 8 : weights);
    if (codes) expect(taken).toBeLessThan(weights / 2);
    moved.push(end.bytes - start.bytes);
  }
  // each weight is read forward and backward, 3.5 bytes less a number each time
  expect(moved[0] - moved[1]).toBeGreaterThan(10 * 64 * 64 * 3);
}, 120_000);

test.runIf(process.env["ADJOINT_RUNS"] !== undefined)("losses are the reference's", async () => {
  const losses = async (device: Backend): Promise<number[]> => {
    const step = stepOf(device, 32, true), out: number[] = [];
    for (let i = 0; i < 3; i++) out.push(await step().item());
    return out;
  };
  const want = await losses(createReference({ name: "fused", fuse: true })), got = await losses(new WebGpuBackend(await Session.open({ mode: "safe", allowSoftware: true }), lowerSmall));
  want.forEach((x, i) => { expect(Math.abs(x - got[i])).toBeLessThan(1e-5); });
  expect(want[2]).toBeLessThan(want[0]);
}, 600_000);
