/** Runs one program on a device directly, without the backend: what kernel tests stand on. */
import { bytesOf, type DType, decode, encode, hostArray, type PlanSpec, type TypedArray } from "@adjoint/tensor";
import { create, globals } from "webgpu";
import type { Program, Target } from "../src/program.ts";
import { NUMBER_BLOCKS } from "../src/shader.ts";

Object.assign(globalThis, globals);
export interface Buffer4 { readonly dtype: DType; readonly values: number[] }

export interface Bench { readonly device: GPUDevice; readonly target: Target; readonly name: string; readonly pipelines: Map<string, GPUComputePipeline> }

const features = ["shader-f16", "subgroups", "subgroup-size-control", "timestamp-query", "chromium-experimental-subgroup-matrix"] as const;

/** Kept: Dawn's instances must outlive their devices. */
const instances: GPU[] = [];
/** `flags` as "backend=null"; null when the machine has no such adapter. */
export async function open(...flags: string[]): Promise<Bench | null> {
  const gpu = create(["enable-dawn-features=allow_unsafe_apis", ...flags]);
  instances.push(gpu);
  const adapter = await gpu.requestAdapter();
  if (adapter === null) return null;
  const wanted = features.filter((f) => adapter.features.has(f));
  const { limits: l, info } = adapter;
  const device = await adapter.requestDevice({
    requiredFeatures: wanted as unknown as GPUFeatureName[],
    requiredLimits: Object.fromEntries((["maxBufferSize", "maxStorageBufferBindingSize", "maxComputeWorkgroupStorageSize", "maxComputeInvocationsPerWorkgroup", "maxComputeWorkgroupSizeX", "maxStorageBuffersPerShaderStage"] as const).map((k) => [k, l[k]])),
  });
  const extra = info as GPUAdapterInfo & { subgroupMatrixConfigs?: Iterable<{ componentType: string; resultComponentType: string; M: number; N: number; K: number }>; subgroupMinSize: number; subgroupMaxSize: number };
  const target: Target = {
    f16: device.features.has("shader-f16"),
    subgroups: device.features.has("subgroups") ? { min: extra.subgroupMinSize, max: extra.subgroupMaxSize, control: adapter.features.has("subgroup-size-control") } : null,
    matrix: [...(extra.subgroupMatrixConfigs ?? [])].map((c) => ({ component: c.componentType as "f16", result: c.resultComponentType as "f32", m: c.M, n: c.N, k: c.K })),
    limits: { storageBuffers: device.limits.maxStorageBuffersPerShaderStage, workgroupBytes: device.limits.maxComputeWorkgroupStorageSize, invocations: device.limits.maxComputeInvocationsPerWorkgroup, workgroups: device.limits.maxComputeWorkgroupsPerDimension, bindingBytes: device.limits.maxStorageBufferBindingSize },
    matmul: "f32", units: 8,
  };
  return { device, target, name: `${info.vendor} ${info.architecture}`, pipelines: new Map() };
}

/** Only the text: a device that has too little workgroup memory, or no driver, still checks it. */
export async function checkText(b: Bench, code: string): Promise<GPUShaderModule> {
  b.device.pushErrorScope("validation");
  const module = b.device.createShaderModule({ code }), messages = (await module.getCompilationInfo()).messages;
  const bad = messages.find((m) => m.type !== "info");
  const lines = code.split("\n");
  const fail = (text: string): never => { throw new Error(text); };
  const error = await b.device.popErrorScope();
  if (bad) {
    return fail(`${bad.message} at ${bad.lineNum}:${bad.linePos}\n${lines.slice(Math.max(0, bad.lineNum - 3), bad.lineNum + 1).join("\n")}`);
  }
  return error ? fail(error.message) : module;
}
/** A pipeline, or an error with the text around the mistake. */
export async function compile(b: Bench, code: string): Promise<GPUComputePipeline> {
  const known = b.pipelines.get(code);
  if (known) return known;
  const module = await checkText(b, code);
  b.device.pushErrorScope("validation");
  const pipeline = b.device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  const error = await b.device.popErrorScope();
  if (error) throw new Error(`${error.message}\n${code}`);
  b.pipelines.set(code, pipeline);
  return pipeline;
}

const toHost = (d: Buffer4): TypedArray => { const out = hostArray(d.dtype, d.values.length); d.values.forEach((x, i) => { out[i] = encode(d.dtype, x); }); return out; };

/** Contents of all buffers after the program. Scratch begins with NaNs, so that nothing unwritten is read. */
export async function execute(b: Bench, plan: PlanSpec, program: Program, buffers: readonly Buffer4[], uniforms: readonly number[]): Promise<number[][]> {
  const { device } = b, U = { storage: 0x80 | 0x8 | 0x4, uniform: 0x40 | 0x8, read: 0x1 | 0x8 };
  const made: GPUBuffer[] = [];
  const make = (bytes: Uint8Array, usage: number): GPUBuffer => {
    const size = Math.ceil(Math.max(bytes.length, 4) / 16) * 16, buffer = device.createBuffer({ size, usage });
    const padded = new Uint8Array(size);
    padded.set(bytes);
    device.queue.writeBuffer(buffer, 0, padded);
    made.push(buffer);
    return buffer;
  };
  const bytesIn = (x: TypedArray): Uint8Array => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);
  device.pushErrorScope("validation");
  const held = [...buffers.map((d) => make(bytesIn(toHost(d)), U.storage)), ...program.scratch.map((n) => make(new Uint8Array(n).fill(255), U.storage))];
  const numbers = new Uint8Array((NUMBER_BLOCKS.find((n) => n >= plan.uniforms.length) ?? 0) * 4), view = new DataView(numbers.buffer);
  plan.uniforms.forEach((t, i) => { if (t === "float") view.setFloat32(4 * i, uniforms[i], true); else view.setInt32(4 * i, uniforms[i], true); });
  const numbersBuffer = make(numbers, U.uniform);
  const encoder = device.createCommandEncoder();
  for (const d of program.dispatches) {
    const pipeline = await compile(b, d.code), params = make(bytesIn(Int32Array.from(d.params)), U.uniform);
    const entries = [{ binding: 0, resource: { buffer: params } }, ...(d.numbers ? [{ binding: 1, resource: { buffer: numbersBuffer } }] : []), ...d.bindings.map((x, i) => ({ binding: i + 2, resource: { buffer: held[x.buffer] } }))];
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(...d.workgroups);
    pass.end();
  }
  const reads = buffers.map((d, i) => {
    const size = held[i].size, out = device.createBuffer({ size, usage: U.read });
    encoder.copyBufferToBuffer(held[i], 0, out, 0, size);
    made.push(out);
    return out;
  });
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  if (error) throw new Error(error.message);
  const out: number[][] = [];
  for (const [i, r] of reads.entries()) {
    await r.mapAsync(1);
    const d = buffers[i], host = hostArray(d.dtype, d.values.length);
    bytesIn(host).set(new Uint8Array(r.getMappedRange()).subarray(0, d.values.length * bytesOf(d.dtype)));
    out.push(Array.from(host, (x) => decode(d.dtype, x)));
  }
  made.forEach((x) => { x.destroy(); });
  return out;
}
