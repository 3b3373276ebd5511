/** @adjoint/wasm: the default CPU backend, WebAssembly SIMD kernels printed from formulas. */
import { type Backend, ConfigError } from "@adjoint/tensor";
import { WasmBackend } from "./backend.ts";
import { Compiler } from "./compile.ts";
import { chooseTile, hasRelaxed } from "./engine.ts";
import { SingleThread } from "./executor.ts";
import { LinearMemory } from "./memory.ts";

export interface WasmOptions {
  /** threads that share the work; 1 needs no shared memory */
  readonly threads?: number;
  /** fused multiply-add in matmuls (rounds once instead of twice); default: where the engine has it */
  readonly fma?: boolean;
  /** tiles for V8's 256-bit path, which the process must have switched on */
  readonly wide?: boolean;
}

const MAXIMUM_PAGES = 65536;
const RESERVED = 65536;

function build(threads: number, options: WasmOptions): WasmBackend {
  if (options.fma === true && !hasRelaxed()) throw new ConfigError("wasm: this engine has no fused multiply-add (relaxed SIMD)", { key: "fma", value: true, fix: "leave fma out, or use Node 24 or newer" });
  const target = { threads, tile: chooseTile(options.fma, options.wide === true) };
  const type = { maximum: MAXIMUM_PAGES, shared: threads > 1 };
  const memory = new LinearMemory(type, RESERVED);
  const compiler = new Compiler(memory.memory, type, target);
  return new WasmBackend(memory, target, compiler, new SingleThread());
}

/** The CPU backend on the calling thread alone. */
export function wasmSync(options: Omit<WasmOptions, "threads"> = {}): Backend { return build(1, options); }

/** The CPU backend; `threads` defaults to 1. */
export async function wasm(options: WasmOptions = {}): Promise<Backend> {
  return build(options.threads ?? 1, options);
}
