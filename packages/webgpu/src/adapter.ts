/** Which adapters there are, which one is meant, and what kernels may use on it. */
import { DeviceError } from "@adjoint/tensor";
import { checkOptions, findGpu, type WebGpuOptions } from "./gpu.ts";
import type { MatrixConfig, Target } from "./program.ts";

/** What an adapter says about itself. */
export interface AdapterReport {
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  /** a program on the CPU: right, and far slower than the wasm backend */
  readonly software: boolean;
  readonly isFallbackAdapter: boolean;
  readonly subgroups: { readonly min: number; readonly max: number } | null;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
  readonly matrix: readonly MatrixConfig[];
}

const MATRIX = "chromium-experimental-subgroup-matrix";
/** asked for wherever the adapter has them */
const FEATURES: readonly string[] = ["shader-f16", "subgroups", "subgroup-size-control", "timestamp-query", MATRIX];
const LIMITS: readonly string[] = [
  "maxBufferSize", "maxStorageBufferBindingSize", "maxUniformBufferBindingSize", "maxComputeWorkgroupStorageSize", "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX", "maxComputeWorkgroupSizeY", "maxComputeWorkgroupSizeZ", "maxStorageBuffersPerShaderStage", "maxComputeWorkgroupsPerDimension",
];
const components: readonly string[] = ["f16", "f32", "i8", "u8"], results: readonly string[] = ["f16", "f32", "i32", "u32"];

/** Fields of `GPUAdapterInfo` that not every implementation has. */
interface Info {
  readonly vendor?: string; readonly architecture?: string; readonly device?: string; readonly description?: string; readonly isFallbackAdapter?: boolean;
  readonly subgroupMinSize?: number; readonly subgroupMaxSize?: number;
  readonly subgroupMatrixConfigs?: Iterable<{ readonly componentType: string; readonly resultComponentType: string; readonly M: number; readonly N: number; readonly K: number }>;
}

export function describeAdapter(adapter: GPUAdapter): AdapterReport {
  const info: Info = adapter.info ?? {}, features = [...adapter.features].sort();
  const { vendor = "", architecture = "", device = "", description = "" } = info, limits: Record<string, number> = {};
  for (const key in adapter.limits) { const v = (adapter.limits as unknown as Record<string, unknown>)[key]; if (typeof v === "number") limits[key] = v; }
  const isFallbackAdapter = info.isFallbackAdapter === true || (adapter as { isFallbackAdapter?: boolean }).isFallbackAdapter === true;
  const software = isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|software|basic render/i.test(`${architecture} ${device} ${description}`);
  const matrix = features.includes(MATRIX) ? [...(info.subgroupMatrixConfigs ?? [])].flatMap((c): MatrixConfig[] => (components.includes(c.componentType) && results.includes(c.resultComponentType)
    ? [{ component: c.componentType as MatrixConfig["component"], result: c.resultComponentType as MatrixConfig["result"], m: c.M, n: c.N, k: c.K }] : [])) : [];
  const subgroups = features.includes("subgroups") ? { min: info.subgroupMinSize ?? 4, max: info.subgroupMaxSize ?? 128 } : null;
  return { vendor, architecture, device, description, software, isFallbackAdapter, subgroups, features, limits, matrix };
}
/** One line for people. */
export const nameOf = (a: AdapterReport): string => [a.vendor, a.architecture, a.description || a.device].filter((s) => s !== "").join(" ") || "an adapter without a name";

async function list(gpu: GPU, o: WebGpuOptions): Promise<{ adapter: GPUAdapter; report: AdapterReport }[]> {
  const found: { adapter: GPUAdapter; report: AdapterReport }[] = [];
  const first = o.powerPreference ?? "high-performance";
  const wishes: GPURequestAdapterOptions[] = [{ powerPreference: first }, { powerPreference: first === "low-power" ? "high-performance" : "low-power" }, { forceFallbackAdapter: true }];
  for (const wish of wishes) {
    const adapter = await gpu.requestAdapter(wish).catch(() => null);
    if (adapter === null || adapter === undefined) continue;
    const report = describeAdapter(adapter);
    if (!found.some((f) => nameOf(f.report) === nameOf(report))) found.push({ adapter, report });
  }
  return found;
}

/** Every adapter that can be had with these options, the default one first. */
export async function adapters(options: WebGpuOptions = {}): Promise<AdapterReport[]> {
  checkOptions(options);
  return (await list(await findGpu(options), options)).map((f) => f.report);
}

const nothing = (): DeviceError => new DeviceError("webgpu: no adapter was found", {
  fix: "install the GPU's driver (on Linux: its Vulkan driver and libvulkan1); `adjoint doctor` says what is missing; without a GPU use the CPU: device: \"cpu\"",
});

/** The adapter that the options mean. */
export async function chooseAdapter(gpu: GPU, o: WebGpuOptions): Promise<{ adapter: GPUAdapter; report: AdapterReport }> {
  if (o.adapter === undefined) {
    const adapter = await gpu.requestAdapter({ powerPreference: o.powerPreference ?? "high-performance" });
    if (adapter === null || adapter === undefined) throw nothing();
    return { adapter, report: describeAdapter(adapter) };
  }
  const all = await list(gpu, o), want = o.adapter;
  if (all.length === 0) throw nothing();
  const found = typeof want === "number" ? all[want] : all.find((a) => `${a.report.vendor} ${a.report.architecture} ${a.report.device} ${a.report.description}`.toLowerCase().includes(want.toLowerCase()));
  if (found === undefined) throw new DeviceError(`webgpu: no adapter ${JSON.stringify(want)}`, { key: "adapter", value: want, fix: `one of: ${all.map((a, i) => `${i} ${nameOf(a.report)}`).join("; ")}` });
  return found;
}

/** Asks for everything that kernels can use: features by name, and the adapter's own limits. */
export async function requestDevice(adapter: GPUAdapter, report: AdapterReport): Promise<GPUDevice> {
  const requiredFeatures = FEATURES.filter((f) => report.features.includes(f)) as GPUFeatureName[];
  const requiredLimits = Object.fromEntries(LIMITS.flatMap((k) => (report.limits[k] === undefined ? [] : [[k, report.limits[k]]])));
  let device: GPUDevice | null | undefined;
  try {
    device = await adapter.requestDevice({ label: "adjoint", requiredFeatures, requiredLimits });
  } catch (cause) {
    throw new DeviceError(`webgpu: ${nameOf(report)} gives no device: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  if (device === null || device === undefined) throw new DeviceError(`webgpu: ${nameOf(report)} gives no device`);
  return device;
}

/** What printers may use on this device. */
export function targetOf(device: GPUDevice, report: AdapterReport, o: WebGpuOptions): Target {
  const has = (f: string): boolean => device.features.has(f), { limits } = device;
  const units = o.units ?? (report.software ? 4 : /nvidia/i.test(report.vendor) ? 96 : /amd/i.test(report.vendor) ? 48 : 16);
  return {
    f16: has("shader-f16"),
    subgroups: has("subgroups") && report.subgroups !== null ? { ...report.subgroups, control: has("subgroup-size-control") } : null,
    matrix: has(MATRIX) ? report.matrix : [],
    limits: {
      storageBuffers: limits.maxStorageBuffersPerShaderStage, workgroupBytes: limits.maxComputeWorkgroupStorageSize, invocations: limits.maxComputeInvocationsPerWorkgroup,
      workgroups: limits.maxComputeWorkgroupsPerDimension, bindingBytes: limits.maxStorageBufferBindingSize,
    },
    matmul: o.matmul ?? "f32",
    ...(o.tiles === undefined ? {} : { tiles: o.tiles }),
    units,
  };
}
