/** Laws of quantized operands: on the reference, which decodes into memory, and on wasm, which decodes while it packs; and faults that they must notice. */
import { type Decode, type Factor, type Kernel, createReference } from "@adjoint/tensor";
import { wasm, wasmSync } from "@adjoint/wasm";
import { afterAll, describe, expect, test } from "vitest";
import { codeLaws, forward, unfused } from "../src/index.ts";

const runs = Number(process.env["ADJOINT_RUNS"] ?? 10), threaded = await wasm({ threads: 2, soloBelow: 1 });
const backends = { reference: createReference(), wasm: wasmSync(), "wasm without fusion": unfused(wasmSync()), "two threads": threaded };
afterAll(() => threaded.close?.());

describe.each(Object.entries(backends))("%s", (name, backend) => {
  test.each(codeLaws(backend, { runs: name === "wasm" ? 2 * runs : Math.ceil(runs / 3) }).map((l) => [l.name, l] as const))("%s", (_name, law) => law.check());
});

const faults: Readonly<Record<string, (f: Factor, d: Decode) => Factor>> = {
  "blocks are one longer": (f, d) => ({ ...f, decode: { ...d, block: d.block + 1 } }),
  "minima are forgotten": (f, { bits, block, table, scales }) => ({ ...f, decode: { bits, block, table, scales } }),
  "scales of scales have the wrong block": (f, d) => ({ ...f, decode: { ...d, scales: { ...d.scales, ...(d.scales.nested ? { nested: { ...d.scales.nested, block: d.scales.nested.block + 1 } } : {}) } } }),
  "codes begin at the first element": (f) => ({ ...f, offset: 0 }),
};
test.each(Object.entries(faults))("noticed: %s", async (_name, damage) => {
  const whole = wasmSync(), spoil = (f: Factor): Factor => (f.decode ? damage(f, f.decode) : f);
  const broken = { ...forward(whole), prepare: (plan: Parameters<typeof whole.prepare>[0]) => whole.prepare({ ...plan, kernels: plan.kernels.map((k): Kernel => (k.kind === "contract" ? { ...k, a: spoil(k.a), b: spoil(k.b) } : k)) }) };
  let noticed = false;
  for (const law of codeLaws(broken, { runs: 40, shrink: false })) noticed ||= await law.check().then(() => false, () => true);
  expect(noticed).toBe(true);
});
