/** The reference backend under every law, plain and with fusion. */
import { createReference } from "@adjoint/tensor";
import { afterAll, describe, test } from "vitest";
import { conform, largeSubjects, tensorSubjects } from "../src/index.ts";

const runs = Number(process.env["ADJOINT_RUNS"] ?? 16);

describe.each([
  createReference(),
  // fused plans over one arena that is filled with NaN first: a wrong memory plan shows as NaN
  createReference({ name: "fused reference", fuse: true, arena: true }),
])("$name", (backend) => {
  const { laws, shares } = conform(backend, [...tensorSubjects, ...largeSubjects], { runs, graphs: runs * 5, seed: Number(process.env["ADJOINT_SEED"] ?? 1) });
  test.each(laws.map((law) => [law.name, law] as const))("%s", (_, law) => law.check(), 180_000);
  afterAll(() => { console.log(`largest used shares of a bound: ${shares().slice(0, 5).map((s) => `${s.name} ${s.share.toFixed(2)}`).join(", ")}`); });
});
