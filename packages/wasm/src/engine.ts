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
 * Tiles by measurement (x64). V8 of Node 20 and 22 emits all loads of a loop body first, so only a small tile without
 * unrolling keeps its sums in registers; newer ones keep source order. The wide tile feeds V8's 256-bit path.
 */
export const tiles: Readonly<Record<"plain" | "relaxed" | "modern" | "wide" | "wideFma", Tile>> = {
  plain: { mr: 4, nr: 8, unroll: 1, fma: false },
  relaxed: { mr: 6, nr: 8, unroll: 4, fma: true },
  modern: { mr: 5, nr: 8, unroll: 4, fma: false },
  wide: { mr: 4, nr: 16, unroll: 4, fma: false },
  wideFma: { mr: 6, nr: 16, unroll: 4, fma: true },
};

/** The tile for this engine; `modern` engines are recognised by a feature that came with their code generator. */
export function chooseTile(fma: boolean | undefined, wide: boolean): Tile {
  const relaxed = hasRelaxed();
  const fused = fma ?? relaxed;
  if (wide) return fused ? tiles.wideFma : tiles.wide;
  if (fused) return tiles.relaxed;
  return relaxed ? tiles.modern : tiles.plain;
}
