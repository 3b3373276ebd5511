/**
 * CorDA: the directions of W that matter for the inputs it sees, from the decomposition of W C with C the covariance of the inputs.
 *
 * U S Vᵀ = W C; B = U √(S / s), A = √(S / s) Vᵀ C⁻¹ of r directions, so that all of them together are W. `ipm` takes the largest (they train),
 * `kpm` the smallest (what the inputs use stays frozen). C = mean over passes of Xᵀ X / max(X)², padding left out, plus 0.01 of its
 * mean diagonal.
 * Yang et al. 2024 (arXiv 2406.05223).
 */
import { type HostArray, type Matrix, product, scaleRows, solve, svd, tensor, type Tensor, transposed, zeroMatrix } from "@adjoint/tensor";
import { type CordaConfig, partDefaults } from "./configs.ts";
import { cannot, type Initialisation, mustBeLinear, mustBePositive, mustHaveRank, type Setting } from "./initial.ts";
import { weightOf } from "./numbers.ts";
import { columns, range, rows } from "./spectrum.ts";
import { batchesOf, fitMask, inputsOf, maskOf } from "./watch.ts";

/** Options of PEFT's that name files and ways to compute which do not exist here. */
function refuseForeign(corda: CordaConfig): void {
  const refused: readonly (readonly [keyof CordaConfig, boolean, string])[] = [
    ["cacheFile", corda.cacheFile === null, "keep tuned.origin() and pass it as data.origin"],
    ["covarianceFile", corda.covarianceFile === null, "leave it out: covariances are taken from data.batches"],
    ["verbose", !corda.verbose, "pass onModule, which is called after each module"],
    ["useFloat16ForCovariance", !corda.useFloat16ForCovariance, "leave it out: covariances are f32 products added in f64"],
    ["pruneTemporaryFields", corda.pruneTemporaryFields, "leave it out: nothing is written into the model"],
  ];
  for (const [key, ok, fix] of refused) if (!ok) throw cannot("corda", `${key} = ${JSON.stringify(corda[key])} is not implemented`, fix, { key, value: corda[key] });
}

/** Sums of Xᵀ X / max(X)² over the passes. */
interface Sum { total: Float64Array; passes: number; width: number }

/** Xᵀ X and max X over the rows that count. */
interface Moments { readonly cov: HostArray; readonly top: number }

async function momentsOf(x: Tensor, mask: readonly boolean[] | null, path: string): Promise<Moments> {
  const width = x.shape[x.shape.length - 1], n = x.size / width, flat = x.reshape([n, width]).cast("f32");
  if (mask === null) return { cov: await flat.T.matmul(flat).host(), top: await flat.amax().item() };
  fitMask("corda", mask, n, path);
  const of = (yes: number, no: number): Tensor => tensor(Float32Array.from(mask, (m) => (m ? yes : no)), { shape: [n, 1] }), kept = flat.mul(of(1, 0));
  return { cov: await kept.T.matmul(kept).host(), top: await flat.add(of(0, -Infinity)).amax().item() };
}

async function covariances<B>(setting: Setting<B>): Promise<ReadonlyMap<object, Matrix>> {
  const { places } = setting, sums = new Map<object, Sum>();
  for (const batch of await batchesOf(setting, "corda")) {
    const inputs = inputsOf(setting, "corda", places, batch), mask = await maskOf(setting, batch, null), done = new Map<Tensor, Moments>();
    for (const { site, module } of places) for (const x of inputs.get(module) ?? []) {
      const found = done.get(x) ?? (await momentsOf(x, mask, site.path));
      done.set(x, found);
      const { cov, top } = found, sum = sums.get(module) ?? { total: new Float64Array(cov.data.length), passes: 0, width: cov.shape[0] };
      for (let i = 0; i < sum.total.length; i++) sum.total[i] += cov.data[i] / (top * top);
      sum.passes++;
      sums.set(module, sum);
    }
  }
  return new Map([...sums].map(([module, { total, passes, width }]) => [module, { rows: width, cols: width, data: total.map((v) => v / passes) }]));
}

/** C + 0.01 mean(diag C) I, which has an inverse. */
function damped(c: Matrix): Matrix {
  const n = c.rows, out = { ...c, data: c.data.slice() };
  let trace = 0;
  for (let i = 0; i < n; i++) trace += c.data[i * n + i];
  for (let i = 0; i < n; i++) out.data[i * n + i] += (0.01 * trace) / n;
  return out;
}

export const corda: Initialisation = {
  name: "corda",
  begin: async (setting) => {
    const own = setting.config.cordaConfig ?? partDefaults.cordaConfig;
    refuseForeign(own);
    for (const place of setting.places) {
      mustBeLinear("corda", place);
      mustBePositive("corda", place);
      mustHaveRank("corda", place, place.site.r);
    }
    const found = await covariances(setting);
    return {
      start: async (place) => {
        const { path, r, scale } = place.site, C = damped(found.get(place.module) ?? zeroMatrix(0, 0));
        if (!C.data.every(Number.isFinite)) throw cannot("corda", `the inputs of ${path} have no finite covariance`, "leave out batches with NaN, infinity or nothing but zeros", { key: "batches", value: path });
        const { u, s, vt } = svd(product(await weightOf(place), C)), chosen = range(own.cordaMethod === "ipm" ? 0 : s.length - r, r), root = chosen.map((i) => Math.sqrt(s[i] / scale));
        const right = transposed(solve(C, transposed(rows(vt, chosen)))); // Vᵀ C⁻¹, for C is symmetric
        return { A: scaleRows(right, root), B: transposed(scaleRows(transposed(columns(u, chosen)), root)) };
      },
    };
  },
};
