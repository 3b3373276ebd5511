/** Matrix units are tried before they are trusted: a small product by them must equal the same by the plain kernel. */
import type { DType } from "@adjoint/tensor";
import { Bench, caseOf, differs } from "./bench.ts";
import { contractWith } from "./contract.ts";
import { problemOf } from "./gemm-problem.ts";
import type { MatrixConfig, Target } from "./program.ts";
import { fits, matrixConfig, matrixVariants, tiles } from "./tiles.ts";

/** The target without configurations that kernels would use and that fail here; `tell` hears of each. */
export async function provenMatrix(gpu: GPUDevice, target: Target, tell: (line: string) => void): Promise<Target> {
  let { matrix } = target;
  for (const type of ["f16", "f32"] as const) {
    for (;;) {
      const trial: Target = { ...target, matrix, matmul: "f32" }, config = await failing(gpu, trial, type, tell);
      if (config === null) break;
      matrix = matrix.filter((c) => c !== config);
    }
  }
  return matrix.length === target.matrix.length ? target : { ...target, matrix };
}

/** The configuration that products of this type use, if it does not work. */
async function failing(gpu: GPUDevice, target: Target, type: DType, tell: (line: string) => void): Promise<MatrixConfig | null> {
  // edges in m and n, and operands of both directions
  for (const b of ["row", "column"] as const) {
    const shape = { m: 72, n: 48, k: 96, b, types: [type, type] as const }, { kernel, plan } = caseOf(shape), problem = problemOf(kernel), config = matrixConfig(problem, target);
    if (config === undefined) return null;
    const units = matrixVariants(config).map((x) => x.variant).find((v) => v.WM * config.m === 32 && fits(v, problem, target)), plain = tiles.map((x) => x.variant).find((v) => v.BM === 32 && fits(v, problem, target));
    if (units === undefined || plain === undefined) return null;
    const bench = new Bench(gpu, plan);
    try {
      const by = async (variant: typeof units | typeof plain): Promise<Float32Array> => bench.once(contractWith(kernel, plan, target, problem, { variant, splits: 1 }));
      const wrong = differs(await by(units), await by(plain), shape.k);
      if (wrong === null) continue;
      tell(`matrix units ${config.component} ${config.m}x${config.n}x${config.k} are not used: ${wrong}`);
    } catch (e) {
      tell(`matrix units ${config.component} ${config.m}x${config.n}x${config.k} are not used: ${e instanceof Error ? e.message : String(e)}`);
    } finally { bench.destroy(); }
    return config;
  }
  return null;
}
