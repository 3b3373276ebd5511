/** A module for each format of simd-loops.ts, made when first asked for: memory for a chunk of elements, and what is made of it. */
import { assemble } from "./simd-code.ts";
import { CHUNK, CODES, LONGEST, ODD, PAGES, SCALARS, SCALES, VECTORS, X, bodyOf } from "./simd-loops.ts";
import type { FastName } from "./simd-loops.ts";
export { CHUNK, LONGEST, isFastName } from "./simd-loops.ts";
export type { FastName } from "./simd-loops.ts";

export interface Fast {
  /** elements to be quantized */
  readonly x: Float32Array;
  readonly scales: Float32Array;
  readonly codes: Uint8Array;
  /** bit k of byte g: block 4 g + k is left to the encoder (not finite, tiny, or a case the loop has no rule for) */
  readonly left: Uint8Array;
  /** fills scales, codes and `left`; a block is a multiple of 32 elements; gives whether any is left */
  quantize(blocks: number, block: number): boolean;
}

const isLoop = (exported: unknown): exported is (blocks: number, bytes: number) => number => typeof exported === "function";
const made = new Map<FastName, Fast | null>();

/** The loops of a format; null where WebAssembly or its SIMD is missing, or a page's policy forbids it. Made once, at the first call. */
export function fast(name: FastName): Fast | null {
  let loops = made.get(name);
  if (loops === undefined) {
    try {
      loops = make(name);
    } catch {
      loops = null; // the encoders do the same, slower
    }
    made.set(name, loops);
  }
  return loops;
}

function make(name: FastName): Fast | null {
  const [body, tables] = bodyOf(name), { memory, run } = new WebAssembly.Instance(new WebAssembly.Module(assemble(body, PAGES, SCALARS, VECTORS))).exports;
  if (!(memory instanceof WebAssembly.Memory) || !isLoop(run)) return null;
  const { buffer } = memory;
  for (const [at, table] of tables) new Uint8Array(buffer, at).set(new Uint8Array(table.buffer, table.byteOffset, table.byteLength));
  return {
    x: new Float32Array(buffer, X, LONGEST), scales: new Float32Array(buffer, SCALES, CHUNK / 32), codes: new Uint8Array(buffer, CODES, LONGEST), left: new Uint8Array(buffer, ODD, SCALES - ODD),
    quantize: (blocks, block) => run(blocks, block * 4) !== 0,
  };
}
