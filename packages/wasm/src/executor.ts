/** Who runs a plan's calls: this thread alone, or a pool of threads. */
import { DeviceError } from "@adjoint/tensor";
import type { KernelFunction, Loaded } from "./compile.ts";

/** One kernel phase with its argument block. */
export interface Call {
  readonly run: KernelFunction;
  readonly kernel: number;
  readonly phase: number;
  readonly args: number;
  /** large enough for all threads, by itself or with its neighbours */
  readonly parallel: boolean;
  /** the next call may begin before every thread has ended this one */
  readonly flows: boolean;
  readonly label: string;
  /** address of the word from which threads draw work, if any */
  readonly counter: number | undefined;
}

export interface Executor {
  readonly messages: number;
  /** new code */
  load(module: Loaded): void;
  /** kernels that no plan uses any more */
  unload(kernels: readonly number[]): void;
  run(calls: readonly Call[]): void;
  close(): Promise<void>;
  /** ends a worker, as an accident would */
  kill(thread: number): Promise<void>;
}

/** A trap of a kernel as an error with its label. */
export function trapped(label: string, cause: unknown): DeviceError {
  return new DeviceError(`wasm: kernel ${label} failed: ${cause instanceof Error ? cause.message : String(cause)}`, { op: label, cause });
}

/** Runs everything on the calling thread. */
export class SingleThread implements Executor {
  readonly messages = 0;
  load(): void { /* the compiler holds the code */ }
  unload(): void { /* nothing elsewhere to forget */ }
  run(calls: readonly Call[]): void {
    for (const c of calls) {
      try { c.run(c.args, 0, 1); } catch (cause) { throw trapped(c.label, cause); }
    }
  }
  close(): Promise<void> { return Promise.resolve(); }
  kill(thread: number): Promise<void> { return Promise.reject(new DeviceError(`wasm: there is no worker thread ${thread}`)); }
}
