/** The devices of this machine: which one a name means, and opening it. */
import { node } from "@adjoint/io";
import { type Backend, ConfigError, DeviceError, referenceBackend } from "@adjoint/tensor";
import type { Recipe } from "@adjoint/train";
import type { AdapterReport, WebGpuOptions } from "@adjoint/webgpu";
import { readTiles } from "./tiles-file.ts";

/** A device and what the screen calls it. */
export interface Opened { readonly device: Backend; readonly name: string }
export type DeviceChoice = Pick<Recipe, "device" | "threads" | "wide">;

/** How many threads there are without asking for a number. */
export const defaultThreads = (): number => Math.min(node().os.availableParallelism(), 8);

/**
 * The CPU backend. The 256-bit path is an engine flag of the whole process, so only a command may set it; results are
 * the same bits with it.
 */
async function cpu({ threads, wide }: DeviceChoice): Promise<Opened> {
  const { wasm, checkWide } = await import("@adjoint/wasm"), n = threads === 0 ? defaultThreads() : threads;
  const able = wide && process.arch === "x64" && Number(process.versions.node.split(".")[0]) >= 24;
  if (able) process.getBuiltinModule("node:v8").setFlagsFromString("--experimental-wasm-revectorize");
  const check = able ? checkWide() : null, use = check !== null && check.sound && check.speedup > 1.1;
  if (able && !use) process.getBuiltinModule("node:v8").setFlagsFromString("--no-experimental-wasm-revectorize");
  return { device: await wasm({ threads: n, wide: use }), name: `wasm: ${use ? "256-bit, " : ""}${n} ${n === 1 ? "thread" : "threads"}` };
}

/** How `webgpu({ adapter })` takes what a user wrote: a number, or a part of the name. */
export const adapterOption = (part: string): number | string => (/^\d+$/.test(part) ? Number(part) : part);

/** The GPU, with the kernels that `adjoint tune` found; an adapter that is a program on the CPU is taken only when it is asked for by name. */
async function gpu(options: WebGpuOptions): Promise<Opened> {
  const { adapters, nameOf, webgpu } = await import("@adjoint/webgpu"), { adapter: want } = options, all = await adapters(options);
  const chosen = want === undefined ? all[0] : typeof want === "number" ? all[want] : all.find((a) => nameOf(a).toLowerCase().includes(want.toLowerCase()));
  const tiles = chosen === undefined ? null : await readTiles(nameOf(chosen)), device = await webgpu(tiles === null ? options : { ...options, tiles });
  return { device, name: `webgpu: ${nameOf(device.adapter)}${tiles === null ? "" : ", tuned"}` };
}

/** The first adapter that is a GPU, or why there is none. */
export async function findGpu(): Promise<{ readonly index: number; readonly adapter: AdapterReport } | { readonly none: string }> {
  try {
    const { adapters } = await import("@adjoint/webgpu"), all = await adapters(), index = all.findIndex((a) => !a.software);
    if (index >= 0) return { index, adapter: all[index] };
    return { none: all.length === 0 ? "no adapter was found" : `only ${all.map((a) => a.architecture || a.description).join(", ")}, which runs on the CPU` };
  } catch (error) {
    if (error instanceof DeviceError) return { none: error.message.split("\n")[0].replace(/^webgpu: /, "") };
    throw error;
  }
}

/**
 * The device that a recipe names: "cpu" (or "wasm"), "webgpu" (or "webgpu:PART" of an adapter's name or number), "reference",
 * or "auto": the GPU where there is one, else the CPU; never a GPU that is a program. `options` are for a GPU.
 */
export async function chooseDevice(choice: DeviceChoice, options: WebGpuOptions = {}): Promise<Opened> {
  const [kind, part] = choice.device.split(/:(.*)/s);
  if (part !== undefined && kind !== "webgpu") throw new ConfigError(`device: ${kind} takes no adapter`, { key: "device", value: choice.device, fix: `--device ${kind}` });
  switch (kind) {
    case "reference": return { device: referenceBackend, name: "reference" };
    case "cpu": case "wasm": return cpu(choice);
    case "webgpu": return gpu(part === undefined ? options : { ...options, adapter: adapterOption(part), allowSoftware: true });
    case "auto": {
      const found = await findGpu();
      return "none" in found ? cpu(choice) : gpu({ ...options, adapter: found.index });
    }
    default: throw new ConfigError(`device: there is no ${JSON.stringify(kind)}`, { key: "device", value: choice.device, fix: "auto, cpu, webgpu, webgpu:PART of an adapter's name, or reference" });
  }
}
