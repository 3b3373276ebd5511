/** What the compiler makes of one kernel: code under a key, and the words of its argument block. */
import type { Func } from "./assembler.ts";
import type { Layout, Patch } from "./space.ts";

/** Properties of engine and machine that code may depend on. */
export interface Target {
  readonly threads: number;
  readonly tile: Tile;
  /** kernels under this many elements, or 16 times as many floating-point operations, run on the calling thread alone */
  readonly soloBelow: number;
}
/** A GEMM micro-kernel: mr rows by nr columns, the k loop unrolled, multiply-add fused or not. */
export interface Tile { readonly mr: number; readonly nr: number; readonly unroll: number; readonly fma: boolean }

/** Buffer number of a patch that points to the backend's workspace. */
export const WORKSPACE = -1;

export interface Recipe {
  /** equal keys have equal code and equal argument layouts */
  readonly key: string;
  readonly layout: Layout;
  /** The functions; those exported as `name.0`, `name.1` ... are phases (args, thread, threads) run in order with a barrier between. */
  emit(name: string, first: number): Func[];
  readonly phases: number;
  fill(words: Int32Array): Patch[];
  /** word for how far thread numbers are turned, so that kernels of few rows in one run are not all the last thread's */
  readonly turn?: number;
  /** word from which threads draw units of work; 0 before a call */
  readonly counter?: number;
  /** bytes of shared workspace */
  readonly workspace: number;
  /** bytes of it that are each thread's own, one share after the other; absent where threads hand each other something there */
  readonly share?: number;
  /** elements or multiply-adds, to decide between one thread and all */
  readonly work: number;
}
