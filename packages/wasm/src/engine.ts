/** What the running engine can do: relaxed SIMD, and the GEMM tile that suits it. */
import { assemble, Func, v } from "./assembler.ts";
import type { Tile } from "./recipe.ts";

/** Whether the engine has f32x4.relaxed_madd. */
export function hasRelaxed(): boolean {
  const f = new Func("f", 0);
  f.f32x4(0).f32x4(0).f32x4(0).simd(v.madd).i(0x1a);
  return WebAssembly.validate(assemble([f], { maximum: 1, shared: false }));
}

/**
 * Whether the engine's code generator keeps source order and folds offsets (V8's Turboshaft, Node 24 and newer): told by
 * 64-bit memories, which came with it. Node 22 has relaxed SIMD but not this.
 */
export function isModern(): boolean {
  return WebAssembly.validate(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 5, 3, 1, 4, 1));
}

/**
 * Tiles by measurement (x64). V8 of Node 20 and 22 emits all loads of a loop body first, so only a small tile without
 * unrolling keeps its sums in registers; newer ones keep source order. The wide tiles feed V8's 256-bit path.
 */
export const tiles: Readonly<Record<"plain" | "plainFma" | "modern" | "modernFma" | "wide" | "wideFma", Tile>> = {
  plain: { mr: 4, nr: 8, unroll: 1, fma: false },
  plainFma: { mr: 3, nr: 12, unroll: 1, fma: true },
  modern: { mr: 5, nr: 8, unroll: 4, fma: false },
  modernFma: { mr: 6, nr: 8, unroll: 4, fma: true },
  wide: { mr: 4, nr: 16, unroll: 4, fma: false },
  wideFma: { mr: 6, nr: 16, unroll: 4, fma: true },
};

/** The tile for this engine; fused multiply-add where the engine has it, unless `fma` says no. */
export function chooseTile(fma: boolean | undefined, wide: boolean): Tile {
  const fused = (fma ?? true) && hasRelaxed();
  if (wide) return fused ? tiles.wideFma : tiles.wide;
  if (isModern()) return fused ? tiles.modernFma : tiles.modern;
  return fused ? tiles.plainFma : tiles.plain;
}
