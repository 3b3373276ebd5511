/** Modules of simd-loops.ts and simd-decode.ts, each made when first asked for: memory for a chunk of elements, and what is made of it. */
import { assemble } from "./simd-code.ts";
import type { Code } from "./simd-code.ts";
import * as decode from "./simd-decode.ts";
import { CHUNK, CODES, HALVES, LONGEST, ODD, PAGES, SCALARS, SCALES, VECTORS, X, bodyOf } from "./simd-loops.ts";
import type { FastName, Input, Tables } from "./simd-loops.ts";
export { CHUNK, LONGEST, isFastName } from "./simd-loops.ts";
export type { FastName, Input } from "./simd-loops.ts";

/** What elements lie in: bits of f16 and bf16 in a Uint16Array. */
export type Elements = Float32Array | Uint16Array;

/** Where a chunk and what is made of it lie in a memory. */
export interface Room {
  /** elements to be quantized */
  readonly x: Elements;
  readonly scales: Float32Array;
  readonly codes: Uint8Array;
  /** bit k of byte g: block 4 g + k is left to the encoder (not finite, tiny, or a case the loop has no rule for) */
  readonly left: Uint8Array;
}
export interface Fast extends Room {
  /** fills scales, codes and `left`; a block is a multiple of 32 elements; gives whether any is left */
  quantize(blocks: number, block: number): boolean;
}

export interface FastDecode {
  /** 16 or 256 values */
  table(values: Float32Array): void;
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
  readonly mins: Float32Array;
  readonly x: Float32Array;
  /** fills x; a block is a multiple of 32 elements */
  dequantize(blocks: number, block: number): void;
}

const isLoop = (exported: unknown): exported is (blocks: number, bytes: number) => number => typeof exported === "function";
/** The module of each key; null where WebAssembly or its SIMD is missing, or a page's policy forbids it. */
function once<K extends string, T>(make: (key: K) => T): (key: K) => T | null {
  const made = new Map<K, T | null>();
  return (key) => {
    let loops = made.get(key);
    if (loops === undefined) {
      try {
        loops = make(key);
      } catch {
        loops = null; // the plain loops do the same, slower
      }
      made.set(key, loops);
    }
    return loops;
  };
}
function instance(body: Code, pages: number, scalars: number, vectors: number): { readonly buffer: ArrayBuffer; readonly run: (blocks: number, bytes: number) => number } {
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages }), { run } = new WebAssembly.Instance(new WebAssembly.Module(assemble(body, pages, scalars, vectors)), { e: { m: memory } }).exports;
  if (!isLoop(run)) throw new TypeError("a module without its function");
  return { buffer: memory.buffer, run };
}

export const roomIn = (buffer: ArrayBufferLike, input: Input): Room => ({
  x: input === "f32" ? new Float32Array(buffer, X, LONGEST) : new Uint16Array(buffer, HALVES, LONGEST),
  scales: new Float32Array(buffer, SCALES, CHUNK / 32), codes: new Uint8Array(buffer, CODES, LONGEST), left: new Uint8Array(buffer, ODD, SCALES - ODD),
});
/** Puts what the loops look up into their memory. */
export function putTables(buffer: ArrayBufferLike, tables: Tables): void {
  for (const [at, table] of tables) new Uint8Array(buffer, at).set(new Uint8Array(table.buffer, table.byteOffset, table.byteLength));
}
/** A memory for the loops on another thread, and their module over such memories. */
export const sharedMemory = (): WebAssembly.Memory => new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
export function sharedModule(name: FastName, input: Input): readonly [module: Uint8Array, tables: Tables] {
  const [body, tables] = bodyOf(name, input);
  return [assemble(body, PAGES, SCALARS, VECTORS, true), tables];
}

function encoder(name: FastName, input: Input): Fast {
  const [body, tables] = bodyOf(name, input), { buffer, run } = instance(body, PAGES, SCALARS, VECTORS);
  putTables(buffer, tables);
  return { ...roomIn(buffer, input), quantize: (blocks, block) => run(blocks, block * 4) !== 0 };
}
const encode: Readonly<Record<Input, (name: FastName) => Fast | null>> = { f32: once((name) => encoder(name, "f32")), f16: once((name) => encoder(name, "f16")), bf16: once((name) => encoder(name, "bf16")) };
/** The loops that quantize into a format; null where they cannot run. Made once, at the first call. */
export const fast = (name: FastName, input: Input = "f32"): Fast | null => encode[input](name);

/** The loops that decode codes of 4 or 8 bits, or of 4 with minima; null where they cannot run. Made once, at the first call. */
export const fastDecode: (key: "4" | "8" | "4 mins") => FastDecode | null = once((key): FastDecode => {
  const bits = key === "8" ? 8 : 4, { buffer, run } = instance(decode.bodyOf(bits, key === "4 mins"), decode.PAGES, decode.SCALARS, decode.VECTORS), f32 = (at: number, length: number): Float32Array => new Float32Array(buffer, at, length);
  const place = new Uint8Array(buffer, decode.TABLE, 1024);
  return {
    table: (values) => { place.set(bits === 4 ? decode.planes(values) : new Uint8Array(values.buffer, values.byteOffset, 1024)); },
    codes: new Uint8Array(buffer, decode.CODES, LONGEST), scales: f32(decode.SCALES, CHUNK / 32), mins: f32(decode.MINS, CHUNK / 32), x: f32(decode.X, LONGEST),
    dequantize: (blocks, block) => { run(blocks, (block * bits) / 8); },
  };
});
