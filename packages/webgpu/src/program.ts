/** What one kernel of a plan becomes on a GPU: dispatches of WGSL text over plan buffers, and the numbers they read. */
import type { Kernel, PlanSpec } from "@adjoint/tensor";
import type { TileTable } from "./tile-table.ts";

/** One shape of matrix units: component type of the operands, of the result, and sizes M, N, K. */
export interface MatrixConfig { readonly component: "f16" | "f32" | "i8" | "u8"; readonly result: "f16" | "f32" | "i32" | "u32"; readonly m: number; readonly n: number; readonly k: number }

/** What printers may use on this device; everything that a kernel's text depends on besides the kernel. */
export interface Target {
  /** 16-bit floats as a WGSL type; without it halves are packed by two in u32 */
  readonly f16: boolean;
  /** smallest and largest subgroup, or null without subgroup operations */
  readonly subgroups: { readonly min: number; readonly max: number; /** @subgroup_size is allowed */ readonly control: boolean } | null;
  readonly matrix: readonly MatrixConfig[];
  readonly limits: {
    /** storage bindings a dispatch may have */
    readonly storageBuffers: number;
    /** bytes of workgroup memory */
    readonly workgroupBytes: number;
    readonly invocations: number;
    /** workgroups in one dimension (65,535) */
    readonly workgroups: number;
    /** bytes of one storage binding */
    readonly bindingBytes: number;
  };
  /** operands of matmuls: "f32" keeps every bit; "f16" may round f32 operands to f16 for matrix units (accumulation stays f32) */
  readonly matmul: "f32" | "f16";
  /** choices measured on this device (`tune`), before the rule of tiles.ts */
  readonly tiles?: TileTable;
  /** compute units to fill, when choosing tiles and split-K; an estimate */
  readonly units: number;
}

/**
 * One buffer of a dispatch. `buffer` counts the plan's buffers, then the program's scratch. Two bindings of one dispatch
 * never name the same buffer, unless both read.
 */
export interface Binding { readonly buffer: number; readonly access: "read" | "read_write" }

/** One dispatch: group 0 has the parameters at binding 0, the step's numbers at 1 where `numbers`, then `bindings` from 2 on. */
export interface Dispatch {
  /** the WGSL module, entry point `main`; the key of the pipeline cache */
  readonly code: string;
  readonly bindings: readonly Binding[];
  /** words of the uniform block: sizes, strides, offsets; padded to a multiple of 4 by `Shader` */
  readonly params: readonly number[];
  readonly numbers: boolean;
  readonly workgroups: readonly [number, number, number];
  /** what the trace and explain call it */
  readonly label: string;
  /** of the whole dispatch, for rooflines: floating-point operations, and bytes read and written once */
  readonly flops: number;
  readonly bytes: number;
}

/** Dispatches in order, and temporary buffers of the given bytes that live for these dispatches only. */
export interface Program { readonly dispatches: readonly Dispatch[]; readonly scratch: readonly number[] }

/** Turns one kernel into its program. The plan is there for buffer kinds, dtypes and lengths. */
export type Lower<K extends Kernel> = (kernel: K, plan: PlanSpec, target: Target) => Program;
