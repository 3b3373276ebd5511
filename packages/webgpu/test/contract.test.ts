/** Matrix products of every layout, type and size against plain loops, on the software GPU. */
import { beforeAll, describe, expect, it } from "vitest";
import { lowerContract } from "../src/contract.ts";
import { type Bench, open } from "./execute.ts";
import { differences, Draw, plain, planOf } from "./products.ts";

let gpu: Bench;
beforeAll(async () => {
  const found = await open();
  if (found === null) throw new Error("no WebGPU adapter: run through npm test, which brings a software GPU");
  gpu = found;
});

describe("layouts", () => {
  for (const a of ["row", "column", "any"] as const) for (const b of ["row", "column", "any"] as const) {
    it(`a by ${a}, b by ${b}`, async () => {
      for (const [m, n, k] of [[32, 32, 32], [33, 17, 5], [5, 40, 64], [64, 36, 20]] as const) {
        const c = plain(new Draw(m + n), [], m, n, k, { a, b });
        expect(await differences(gpu, c, lowerContract(c.kernel, planOf(c), gpu.target)), `${m} ${n} ${k}`).toBe("");
      }
    });
  }
});
