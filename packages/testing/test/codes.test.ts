/** Laws of quantized operands: on the reference, which decodes into memory, and on wasm, which decodes while it packs. */
import { createReference } from "@adjoint/tensor";
import { wasm, wasmSync } from "@adjoint/wasm";
import { afterAll, describe, test } from "vitest";
import { codeLaws, unfused } from "../src/index.ts";

const runs = Number(process.env["ADJOINT_RUNS"] ?? 15), threaded = await wasm({ threads: 2, soloBelow: 1 });
const backends = { reference: createReference(), wasm: wasmSync(), "wasm without fusion": unfused(wasmSync()), "two threads": threaded };
afterAll(() => threaded.close?.());

describe.each(Object.entries(backends))("%s", (name, backend) => {
  test.each(codeLaws(backend, { runs: name === "wasm" ? 2 * runs : Math.ceil(runs / 3) }).map((l) => [l.name, l] as const))("%s", (_name, law) => law.check());
});
