/** The builder that every WGSL printer uses: it hands out parameters, step numbers and bindings, and assembles the module. */
import type { BufferSpec, PlanSpec } from "@adjoint/tensor";
import { DeviceError } from "@adjoint/tensor";
import type { Binding, Dispatch, Target } from "./program.ts";

/** Words of the step-number block: WGSL wants its size in the text; a plan with more numbers takes the larger block. */
export const NUMBER_BLOCKS: readonly number[] = [1024, 16384];

/** Element type of a binding in WGSL text. */
export type Cell = "f32" | "i32" | "u32" | "f16" | "vec4f" | "vec4h" | "vec4u" | "vec4i" | "vec2f" | "vec2u" | "atomic<u32>";

/** Buffers that the kernel writes decide every binding's access before any text is printed. */
export interface Uses { readonly writes: ReadonlySet<number> }

export class Shader {
  readonly target: Target;
  readonly #plan: PlanSpec;
  readonly #writes: ReadonlySet<number>;
  /** whether a store is written: then other stores are bound writable too, since small stores share one GPU buffer */
  readonly #writesStore: boolean;
  readonly #params: number[] = [];
  readonly #bindings: (Binding & { readonly cell: Cell; readonly name: string })[] = [];
  readonly #functions = new Map<string, string>();
  readonly #shared: string[] = [];
  readonly #enables = new Set<string>();
  readonly #directives: string[] = [];
  readonly #numbersSize: number;
  #numbers = false;

  constructor(plan: PlanSpec, target: Target, uses: Uses) {
    this.target = target;
    this.#plan = plan;
    this.#writes = uses.writes;
    this.#writesStore = [...uses.writes].some((b) => plan.buffers[b]?.kind === "store");
    const size = NUMBER_BLOCKS.find((n) => n >= plan.uniforms.length);
    if (size === undefined) throw new DeviceError(`webgpu: a plan with ${plan.uniforms.length} numbers`, { value: plan.uniforms.length, fix: "put numbers that belong together into one tensor" });
    this.#numbersSize = size;
  }

  /** A size, stride or offset that is data; gives the WGSL expression for it. */
  param(value: number, type: "u32" | "i32" | "f32" = "u32"): string {
    const i = this.#params.push(type === "f32" ? floatBits(value) : value | 0) - 1, word = `P[${i >> 2}].${"xyzw"[i & 3]}`;
    return type === "u32" ? word : `bitcast<${type}>(${word})`;
  }
  /** Number `position` of the plan's step numbers, as f32, i32 or u32. */
  number(position: number, type: "f32" | "i32" | "u32"): string {
    this.#numbers = true;
    const at = this.param(position), word = `N[${at} >> 2u][${at} & 3u]`;
    return type === "u32" ? word : `bitcast<${type}>(${word})`;
  }
  /** The name of a buffer viewed as an array of cells. A written buffer has one binding only, so one cell type. */
  bind(buffer: number, cell: Cell): string {
    const writes = this.#writes.has(buffer), found = this.#bindings.find((b) => b.buffer === buffer && (writes || b.access === "read_write" || b.cell === cell));
    if (found) {
      if (found.cell !== cell) throw new DeviceError(`webgpu: buffer ${buffer} is written, so it is bound once, and cannot be both ${found.cell} and ${cell}`);
      return found.name;
    }
    const access = writes || (this.#writesStore && this.kind(buffer) === "store") ? "read_write" : "read";
    const name = `b${this.#bindings.length}`;
    this.#bindings.push({ buffer, access, cell, name });
    return name;
  }
  /** The cell type with which a buffer has been bound. */
  cell(buffer: number): Cell | undefined { return this.#bindings.find((b) => b.buffer === buffer)?.cell; }
  /** How many storage bindings are taken. */
  get bound(): number { return this.#bindings.length; }
  kind(buffer: number): BufferSpec["kind"] | "scratch" { return buffer < this.#plan.buffers.length ? this.#plan.buffers[buffer].kind : "scratch"; }
  /** Adds a helper function once, by its name. */
  use(name: string, text: string): void { if (!this.#functions.has(name)) this.#functions.set(name, text); }
  /** Workgroup memory: `name` of a WGSL type such as `array<f32, 256>`. */
  workgroup(name: string, type: string): void { this.#shared.push(`var<workgroup> ${name}: ${type};`); }
  enable(extension: string): void { this.#enables.add(extension); }
  directive(text: string): void { this.#directives.push(text); }

  /**
   * The finished dispatch. `body` is the inside of `main`, which has the builtins `wg` (workgroup_id), `lid` (local_invocation_id),
   * `li` (local_invocation_index), `gid` (global_invocation_id), `nwg` (num_workgroups), and subgroup builtins `sgs`, `sgi` where enabled.
   */
  dispatch(body: string, options: { readonly size: readonly [number, number, number]; readonly workgroups: readonly [number, number, number]; readonly label: string; readonly flops: number; readonly bytes: number; readonly subgroupSize?: number; /** `sgn` is the number of the subgroup in its workgroup */ readonly subgroupId?: boolean }): Dispatch {
    const { size, workgroups, label, flops, bytes } = options, { limits } = this.target;
    if (this.#bindings.length > limits.storageBuffers) throw new DeviceError(`webgpu: ${label} binds ${this.#bindings.length} buffers, this device allows ${limits.storageBuffers}`, { key: "maxStorageBuffersPerShaderStage", value: limits.storageBuffers });
    for (const n of workgroups) if (n > limits.workgroups || n < 1) throw new DeviceError(`webgpu: ${label} wants ${n} workgroups in one dimension`, { key: "maxComputeWorkgroupsPerDimension", value: limits.workgroups });
    const subgroups = this.#enables.has("subgroups");
    while (this.#params.length % 4 !== 0 || this.#params.length === 0) this.#params.push(0);
    const code = [
      ...[...this.#enables].sort().map((e) => `enable ${e};`),
      ...this.#directives,
      `@group(0) @binding(0) var<uniform> P: array<vec4<u32>, ${this.#params.length / 4}>;`,
      this.#numbers ? `@group(0) @binding(1) var<uniform> N: array<vec4<u32>, ${this.#numbersSize / 4}>;` : "",
      ...this.#bindings.map((b, i) => `@group(0) @binding(${i + 2}) var<storage, ${b.access}> ${b.name}: array<${wgslCell(b.cell)}>;`),
      ...this.#shared,
      ...this.#functions.values(),
      `@compute @workgroup_size(${size.join(", ")})${options.subgroupSize === undefined ? "" : ` @subgroup_size(${options.subgroupSize})`}`,
      `fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_id) lid: vec3<u32>, @builtin(local_invocation_index) li: u32, @builtin(global_invocation_id) gid: vec3<u32>${subgroups ? ", @builtin(subgroup_size) sgs: u32, @builtin(subgroup_invocation_id) sgi: u32" : ""}${options.subgroupId === true ? ", @builtin(subgroup_id) sgn: u32" : ""}) {`,
      body,
      "}",
    ].filter((line) => line !== "").join("\n");
    return { code, bindings: this.#bindings.map(({ buffer, access }) => ({ buffer, access })), params: this.#params, numbers: this.#numbers, workgroups, label, flops, bytes };
  }
}

const wgslCell = (c: Cell): string => ({ vec4f: "vec4<f32>", vec4h: "vec4<f16>", vec4u: "vec4<u32>", vec4i: "vec4<i32>", vec2f: "vec2<f32>", vec2u: "vec2<u32>" } as Partial<Record<Cell, string>>)[c] ?? c;
const scratch = new DataView(new ArrayBuffer(4));
function floatBits(x: number): number { scratch.setFloat32(0, x); return scratch.getInt32(0); }

/**
 * Workgroups that cover `count` groups when one dimension is not enough: [x, y, 1] with x·y >= count, and the WGSL
 * expression of the linear group number, to be compared with `count` by the kernel.
 */
export function spread(count: number, target: Target): { workgroups: [number, number, number]; linear: string } {
  const { workgroups: most } = target.limits;
  if (count <= most) return { workgroups: [Math.max(1, count), 1, 1], linear: "wg.x" };
  const y = Math.ceil(count / most), x = Math.ceil(count / y);
  return { workgroups: [x, y, 1], linear: "(wg.y * nwg.x + wg.x)" };
}
