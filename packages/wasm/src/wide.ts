/** Whether the wide GEMM tile is right and pays on this engine: V8's 256-bit path must have been switched on by the process. */
import { assemble } from "./assembler.ts";
import { chooseTile, tiles } from "./engine.ts";
import { library } from "./gemm.ts";
import type { Tile } from "./recipe.ts";

export interface WideCheck {
  /** results equal the exact ones, and the narrow tile's to rounding */
  readonly sound: boolean;
  /** speed of the wide tile over the narrow one's; about 2 where the path works, under 1 where it is off */
  readonly speedup: number;
}

const M = 48, N = 64, K = 192;
type Run = (a: number, lda: number, b: number, c: number, ldc: number, m: number, n: number, k: number, more: number, spare: number) => void;

/** One product of M x K and K x N matrices on a tile: `multiply` packs and runs it, `again` repeats the multiplication. */
function lab(tile: Tile): { multiply(a: Float32Array, b: Float32Array): Float32Array; again(): void } {
  const memory = new WebAssembly.Memory({ initial: 8, maximum: 8 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(assemble(library(tile), { maximum: 8, shared: false })), { e: { m: memory } });
  const micro = exports["micro"] as Run, pack = exports["packB.f32.across"] as (...xs: number[]) => void;
  const at = { a: 0, b: 65536, panels: 131072, c: 262144, spare: 327680 };
  const again = (): void => { micro(at.a, K * 4, at.panels, at.c, N * 4, M, N, K, 0, at.spare); };
  return {
    again,
    multiply(a, b) {
      new Float32Array(memory.buffer, at.a, M * K).set(a);
      new Float32Array(memory.buffer, at.b, K * N).set(b);
      pack(at.panels, at.b, K, N, N * 4, 4);
      again();
      return new Float32Array(memory.buffer, at.c, M * N).slice();
    },
  };
}

/** Compares and times wide and narrow tiles (about 100 ms): call it after the path was switched on, before `wasm({ wide: true })`. */
export function checkWide(options: { readonly fma?: boolean } = {}): WideCheck {
  const best = chooseTile(options.fma, false), wide = lab(best.fma ? tiles.wideFma : tiles.wide), narrow = lab(best);
  const whole = (n: number, seed: number): Float32Array => Float32Array.from({ length: n }, (_, i) => ((i * 7919 + seed * 104729) % 31) - 15);
  const a = whole(M * K, 1), b = whole(K * N, 2);
  const exact = new Float32Array(M * N);
  for (let i = 0; i < M; i++) for (let p = 0; p < K; p++) for (let j = 0; j < N; j++) exact[i * N + j] += a[i * K + p] * b[p * N + j];
  const rest = (xs: Float32Array): Float32Array => xs.map((x, i) => x / 31 + (i % 7) / 1000);
  const agrees = (): boolean => {
    const y = wide.multiply(a, b);
    if (y.some((x, i) => x !== exact[i])) return false;
    const p = wide.multiply(rest(a), rest(b)), q = narrow.multiply(rest(a), rest(b));
    return p.every((x, i) => x === q[i]);
  };
  const seconds = (run: () => void): number => {
    let best = Infinity;
    for (let i = 0; i < 20; i++) {
      const t = performance.now();
      for (let j = 0; j < 8; j++) run();
      best = Math.min(best, performance.now() - t);
    }
    return best;
  };
  let sound = agrees();
  // warm both up: the engine's optimizing compiler takes over after some calls
  for (const until = performance.now() + 60; performance.now() < until;) { wide.again(); narrow.again(); }
  sound &&= agrees();
  return { sound, speedup: seconds(narrow.again) / seconds(wide.again) };
}
