/** Where a GPU object comes from: the page's navigator, the npm package `webgpu` (Dawn) in Node, or the caller. */
import { ConfigError, DeviceError } from "@adjoint/tensor";
import type { TileTable } from "./tile-table.ts";

/** Numbers of the WebGPU standard; Node has no globals for them. */
export const USAGE = { mapRead: 0x1, copySource: 0x4, copyTarget: 0x8, uniform: 0x40, storage: 0x80, queryResolve: 0x200 } as const;
export const MAP_READ = 1;
export const COMPUTE = 4;

export interface WebGpuOptions {
  /** which adapter: its number in `adapters()`, or a part of vendor, architecture, device or description */
  readonly adapter?: number | string;
  /** default "high-performance" */
  readonly powerPreference?: "low-power" | "high-performance";
  /**
   * "safe": every call is validated, indices are checked, errors name the kernel; "fast": Dawn drops checks that proven
   * kernels do not need. A page is always validated. Default "fast".
   */
  readonly mode?: "fast" | "safe";
  /** Node only: the driver underneath, such as "vulkan", "metal", "d3d12", or "null", which compiles everything and runs nothing */
  readonly backend?: string;
  /** operands of matmuls: "f32" (default) keeps every bit; "f16" may round f32 operands to f16 for matrix units, sums stay f32 */
  readonly matmul?: "f32" | "f16";
  /** measures every dispatch by timestamps (slower: one pass each) */
  readonly profile?: boolean;
  /** no warning when the adapter is a program on the CPU */
  readonly allowSoftware?: boolean;
  /** how many dispatches go into one submit; default: all of a step in Node, 1024 in a page */
  readonly dispatchesPerSubmit?: number;
  /** an implementation to use instead (a page's own object, another library, a test double) */
  readonly gpu?: GPU;
  /** shapes of product kernels measured on this device: what `tune` gave, perhaps read back by `tileTable` */
  readonly tiles?: TileTable;
  /** compute units to fill, when choosing tiles; default: a guess by vendor */
  readonly units?: number;
}

const options: ReadonlySet<string> = new Set(["adapter", "powerPreference", "mode", "backend", "matmul", "profile", "allowSoftware", "dispatchesPerSubmit", "gpu", "tiles", "units"]);
export function checkOptions(given: WebGpuOptions): void {
  for (const key of Object.keys(given)) if (!options.has(key)) throw new ConfigError(`webgpu: unknown option ${key}`, { key, fix: `one of ${[...options].join(", ")}` });
  const one = (key: "mode" | "matmul" | "powerPreference", of: readonly string[]): void => {
    const v = given[key];
    if (v !== undefined && !of.includes(v)) throw new ConfigError(`webgpu: ${key} is ${JSON.stringify(v)}`, { key, value: v, fix: `one of ${of.join(", ")}` });
  };
  one("mode", ["fast", "safe"]);
  one("matmul", ["f32", "f16"]);
  one("powerPreference", ["low-power", "high-performance"]);
  if (given.dispatchesPerSubmit !== undefined && !(given.dispatchesPerSubmit >= 1)) throw new ConfigError("webgpu: dispatchesPerSubmit must be at least 1", { key: "dispatchesPerSubmit", value: given.dispatchesPerSubmit });
}

/** Dawn's switches (spec 1.3): what each mode turns on and off. */
export function dawnFlags(o: WebGpuOptions): string[] {
  const on = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia"], off: string[] = [];
  if (o.mode !== "safe") {
    on.push("skip_validation", "disable_robustness", "disable_workgroup_init");
    off.push("lazy_clear_resource_on_first_use");
  }
  if (o.profile === true) off.push("timestamp_quantization");
  return [...(o.backend === undefined ? [] : [`backend=${o.backend}`]), `enable-dawn-features=${on.join(",")}`, ...(off.length ? [`disable-dawn-features=${off.join(",")}`] : [])];
}

interface Module { create(flags: string[]): GPU }
/** GPU objects that live as long as the process: Dawn's must outlive every device made from it. */
const kept = new Map<string, GPU>();

export const inNode: boolean = typeof process === "object" && typeof process.versions?.node === "string";

/** The GPU object for these options. */
export async function findGpu(o: WebGpuOptions): Promise<GPU> {
  if (o.gpu !== undefined) return o.gpu;
  const page = (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
  if (page !== undefined && !inNode) {
    if (o.backend !== undefined) throw new ConfigError(`webgpu: a page cannot choose the driver (backend: ${o.backend})`, { key: "backend" });
    return page;
  }
  if (!inNode) throw new DeviceError("webgpu: this page has no navigator.gpu", { fix: "use a browser with WebGPU, and serve the page from https or from 127.0.0.1" });
  const flags = dawnFlags(o), key = flags.join(" ");
  let gpu = kept.get(key);
  if (gpu === undefined) kept.set(key, (gpu = (await dawn()).create(flags)));
  return gpu;
}

async function dawn(): Promise<Module> {
  const name = "webgpu";
  try {
    const module: unknown = await import(/* @vite-ignore */ name);
    if (typeof module === "object" && module !== null && "create" in module && typeof module.create === "function") return module as Module;
  } catch (cause) {
    throw new DeviceError(`webgpu: the npm package "webgpu" (Dawn for Node) cannot be loaded: ${cause instanceof Error ? cause.message.split("\n")[0] : String(cause)}`, { cause, fix: "npm install webgpu" });
  }
  throw new DeviceError('webgpu: the installed package "webgpu" has no create()', { fix: "npm install webgpu@latest" });
}
