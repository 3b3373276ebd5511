/** The wasm backend, one thread, under every law. */
import { wasmSync } from "@adjoint/wasm";
import { afterAll, describe, test } from "vitest";
import { conform, largeSubjects, tensorSubjects } from "../src/index.ts";

const runs = Number(process.env["ADJOINT_RUNS"] ?? 16);
const backend = wasmSync();

describe(`${backend.name}, one thread`, () => {
  const { laws, shares } = conform(backend, [...tensorSubjects, ...largeSubjects], { runs, graphs: runs * 5, seed: Number(process.env["ADJOINT_SEED"] ?? 1) });
  test.each(laws.map((law) => [law.name, law] as const))("%s", (_, law) => law.check(), 180_000);
  afterAll(async () => {
    console.log(`largest used shares of a bound: ${shares().slice(0, 8).map((s) => `${s.name} ${s.share.toFixed(2)}`).join(", ")}`);
    await backend.close?.();
  });
});
