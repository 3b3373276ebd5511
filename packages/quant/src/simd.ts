/** The module of simd-loops.ts, made once: memory for a chunk of elements, and what is made of it. */
import { assemble } from "./simd-code.ts";
import { CHUNK, CODES, LONGEST, ODD, PAGES, SCALARS, SCALES, VECTORS, X, bodies, tables } from "./simd-loops.ts";
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
  quantize(name: FastName, blocks: number, block: number): boolean;
}

const isLoop = (exported: unknown): exported is (blocks: number, bytes: number) => number => typeof exported === "function";
let made: Fast | null | undefined;

/** The loops; null where WebAssembly or its SIMD is missing, or a page's policy forbids it. Made once, at the first call. */
export function fast(): Fast | null {
  if (made === undefined) {
    try {
      made = make();
    } catch {
      made = null; // the encoders do the same, slower
    }
  }
  return made;
}

function make(): Fast | null {
  const { memory, ...loops } = new WebAssembly.Instance(new WebAssembly.Module(assemble(bodies(), PAGES, SCALARS, VECTORS))).exports;
  if (!(memory instanceof WebAssembly.Memory)) return null;
  const { buffer } = memory;
  for (const [at, table] of tables()) new Uint8Array(buffer, at).set(new Uint8Array(table.buffer, table.byteOffset, table.byteLength));
  return {
    x: new Float32Array(buffer, X, LONGEST), scales: new Float32Array(buffer, SCALES, CHUNK / 32), codes: new Uint8Array(buffer, CODES, LONGEST), left: new Uint8Array(buffer, ODD, SCALES - ODD),
    quantize(name, blocks, block) { const loop = loops[name]; return isLoop(loop) && loop(blocks, block * 4) !== 0; },
  };
}
