/** @adjoint/wasm: the default CPU backend, WebAssembly SIMD kernels printed from formulas. */
import { ConfigError, DeviceError, knownOptions, type OptionNames } from "@adjoint/tensor";
import type { MemoryType } from "./assembler.ts";
import { WasmBackend } from "./backend.ts";
import { Compiler } from "./compile.ts";
import { chooseTile, hasRelaxed } from "./engine.ts";
import { CONTROL_BYTES } from "./control.ts";
import { SingleThread } from "./executor.ts";
import { LinearMemory } from "./memory.ts";
import { Pool } from "./pool.ts";
import type { Target } from "./recipe.ts";
import { spawner } from "./spawn.ts";

export interface WasmOptions {
  /** threads that share the work; 1 needs no shared memory */
  readonly threads?: number;
  /** fused multiply-add in matmuls (rounds once instead of twice); default: where the engine has it */
  readonly fma?: boolean;
  /** tiles for V8's 256-bit path, which the process must have switched on */
  readonly wide?: boolean;
  /** kernels under this many elements, or 16 times as many floating-point operations, run on one thread; default 65,536 */
  readonly soloBelow?: number;
}

const optionNames: OptionNames<Required<WasmOptions>> = { threads: true, fma: true, wide: true, soloBelow: true };

const MAXIMUM_PAGES = 65536, LEAST_PAGES = 4096, MAXIMUM_THREADS = 32;

/** Memory with the largest maximum that this engine and its limits grant. */
function reserve(shared: boolean): { memory: LinearMemory; type: MemoryType } {
  for (let maximum = MAXIMUM_PAGES; ; maximum >>= 1) {
    const type = { maximum, shared };
    try { return { memory: new LinearMemory(type, CONTROL_BYTES), type }; } catch (cause) {
      if (maximum <= LEAST_PAGES) throw new DeviceError("wasm: no memory to reserve", { value: `${maximum / 16} MiB`, cause, fix: "raise the address space limit of the process (ulimit -v)" });
    }
  }
}

interface Parts { readonly memory: LinearMemory; readonly compiler: Compiler; readonly target: Target }
function build(threads: number, options: WasmOptions): Parts {
  knownOptions("wasm", options, optionNames);
  if (!Number.isInteger(threads) || threads < 1 || threads > MAXIMUM_THREADS) throw new ConfigError(`wasm: threads must be a whole number from 1 to ${MAXIMUM_THREADS}`, { key: "threads", value: threads, fix: "leave it out for one thread" });
  if (options.fma === true && !hasRelaxed()) throw new ConfigError("wasm: this engine has no fused multiply-add (relaxed SIMD)", { key: "fma", value: true, fix: "leave fma out, or use Node 24 or newer" });
  const target = { threads, tile: chooseTile(options.fma, options.wide === true), soloBelow: options.soloBelow ?? 65536 };
  const { memory, type } = reserve(threads > 1);
  return { memory, compiler: new Compiler(memory.memory, type, target), target };
}

/** The CPU backend on the calling thread alone. */
export function wasmSync(options: Omit<WasmOptions, "threads"> = {}): WasmBackend {
  const { memory, target, compiler } = build(1, options);
  return new WasmBackend(memory, target, compiler, new SingleThread());
}

/** The CPU backend; `threads` defaults to 1. Resolves when all threads listen. @throws ConfigError for options that this engine cannot meet */
export async function wasm(options: WasmOptions = {}): Promise<WasmBackend> {
  const threads = options.threads ?? 1;
  if (threads === 1) return wasmSync(options);
  const { memory, target, compiler } = build(threads, options);
  const pool = new Pool(memory, compiler, spawner(), threads);
  await pool.ready();
  return new WasmBackend(memory, target, compiler, pool);
}
export type { WasmBackend } from "./backend.ts";
export { checkWide, type WideCheck } from "./wide.ts";
export { hasRelaxed } from "./engine.ts";
export { hasThreads } from "./spawn.ts";
