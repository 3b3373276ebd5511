/** Codes through the engine on a software GPU: laws of every backend, by small tiles (large ones take software seconds to compile). */
import { codeLaws } from "@adjoint/testing";
import { describe, test } from "vitest";
import { WebGpuBackend } from "../src/backend.ts";
import { contractWith } from "../src/contract.ts";
import { problemOf, product } from "../src/gemm-problem.ts";
import { adapters, nameOf } from "../src/index.ts";
import { lower } from "../src/lower.ts";
import { Session } from "../src/session.ts";

const long = process.env["ADJOINT_RUNS"], [adapter] = await adapters().catch(() => []);
const backend = adapter === undefined ? null : new WebGpuBackend(await Session.open({ mode: "safe", allowSoftware: true }), (kernel, plan, target) => {
  if (kernel.kind !== "contract" || product(kernel.shape) === 0) return lower(kernel, plan, target);
  const problem = problemOf(kernel);
  return contractWith(kernel, plan, target, problem, { variant: problem.m <= 4 ? { kind: "vec", lanes: 4, threads: 16, step: 8 } : { kind: "tile", BM: 16, BN: 16, BK: 8, TM: 4, TN: 4, KG: 1, prefetch: false }, splits: 1 });
});
/** in the short form */
const some = /formula|Bᵀ|columns|gradients|copy/;

describe.runIf(backend !== null)(`webgpu on ${adapter === undefined ? "no adapter" : nameOf(adapter)}`, () => {
  if (backend === null) return;
  for (const law of codeLaws(backend, { runs: long === undefined ? 1 : 3, seed: Number(process.env["ADJOINT_SEED"] ?? 4) })) if (long !== undefined || some.test(law.name)) test(law.name, () => law.check(), 600_000);
});
