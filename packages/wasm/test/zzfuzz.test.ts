import fc from "fast-check";
import { test } from "vitest";
import { wasm, wasmSync } from "../src/index.ts";
import { check, same } from "./harness.ts";
import { drawCase, laws, show } from "./laws.ts";
const backend = wasmSync(); const two = await wasm({ threads: 2, soloBelow: 0 });
test.each(laws.map((l) => [l.name, l] as const))("%s", (_n, law) => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), (seed) => {
    const c = drawCase(law, seed);
    try { check(backend, c, law.ulp ?? 64, law.scale ?? 8); same(backend, two, c); } catch (e) { throw new Error(`${e instanceof Error ? e.message : String(e)}\n${show(c)}`); }
  }), { numRuns: 800 });
}, 120000);
