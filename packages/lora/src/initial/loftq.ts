/**
 * LoftQ: codes and a low-rank part that together are nearer to W than codes alone.
 *
 * Q ← quantize(W - L R), then L R ← the best approximation of W - Q of rank r, again and again; A = R, B = L with L R = √ of the singular values shared.
 * Li et al. 2023 (arXiv 2310.08659). The layer computes Q x + s B A x, so here B A = L R / s, which is right for every scale; PEFT leaves
 * the division out (`compat: "peft"`), which is right for s = 1 alone. The codes are the same in both.
 */
import { dequantize, quantize, type Quantized, type QuantizeOptions, quantizedOf, type QuantizedStores } from "@adjoint/quant";
import { ConfigError, type HostArray, lowRank as truncated, type Matrix, matrixOf, structureChanged, svd, transposed } from "@adjoint/tensor";
import { parametersOf } from "../targets/modules.ts";
import { partDefaults } from "./configs.ts";
import { cannot, type InitialData, type Initialisation, mustBeLinear, mustBePositive, mustHaveRank, type Place } from "./initial.ts";
import { orientedMatrix } from "./numbers.ts";
import { range, shared } from "./spectrum.ts";

/** Options of `loftq`. */
export interface LoftqOptions extends QuantizeOptions {
  readonly rank: number;
  /** rounds, default 1 */
  readonly iterations?: number;
  /** s of the layer that will hold A and B, default 1 */
  readonly scale?: number;
}

/** What `loftq` found. */
export interface Loftq {
  readonly quantized: Quantized;
  /** (rank, columns) and (rows, rank): W ≈ dequantize(quantized) + scale·B A */
  readonly A: Matrix;
  readonly B: Matrix;
  /** ‖W - (Q + s B A)‖ after each round; `unaided` is ‖W - quantize(W)‖ */
  readonly errors: readonly number[];
  readonly unaided: number;
}

const minus = (a: Matrix, b: ArrayLike<number>): Matrix => ({ ...a, data: a.data.map((x, i) => x - b[i]) });
const norm = (a: Matrix): number => Math.sqrt(a.data.reduce((sum, x) => sum + x * x, 0));

/**
 * Codes of a matrix and the factors that make up for what rounding lost, by alternating the two.
 * @throws ConfigError for a rank that the matrix does not have, fewer than one round, a scale that is not above 0, and what `quantize` refuses
 * @example const { quantized, A, B } = loftq(matrixOf(await weight.host()), { format: "nf4", rank: 16, iterations: 5 })
 */
export function loftq(W: Matrix, { rank, iterations = 1, scale = 1, ...how }: LoftqOptions): Loftq {
  const most = Math.min(W.rows, W.cols), shape = [W.rows, W.cols];
  if (!(Number.isInteger(rank) && rank >= 1 && rank <= most)) throw new ConfigError(`loftq: rank ${rank} of [${shape.join(", ")}]`, { op: "loftq", key: "rank", value: rank, fix: `use an integer from 1 to ${most}` });
  if (!(Number.isInteger(iterations) && iterations >= 1)) throw new ConfigError(`loftq: ${iterations} iterations`, { op: "loftq", key: "iterations", value: iterations, fix: "use an integer from 1 on" });
  if (!(scale > 0)) throw new ConfigError(`loftq: scale ${scale}`, { op: "loftq", key: "scale", value: scale, fix: "use a number above 0" });
  let aim = W, unaided = 0;
  for (const errors: number[] = []; ;) {
    const quantized = quantize(Float32Array.from(aim.data), shape, how), rest = minus(W, dequantize(quantized)), parts = svd(rest);
    if (errors.length === 0) unaided = norm(rest);
    errors.push(Math.sqrt(parts.s.slice(rank).reduce((sum, x) => sum + x * x, 0)));
    if (errors.length === iterations) return { quantized, ...shared(parts, range(0, rank), scale), errors, unaided };
    aim = minus(W, truncated(parts, rank).data);
  }
}

/** The codes that a module's weight is held as. */
function codesOf({ site, module }: Place, bits: number): QuantizedStores {
  const codes = quantizedOf(parametersOf(module).weight);
  if (codes === null) throw cannot("loftq", `the weight of ${site.path} is held as numbers`, 'load the base quantized, such as loadModel(path, { quantize: { format: "nf4" } }), and pass the weights as they were in data.weights', { value: site.path });
  if (codes.format.bits !== bits) throw cannot("loftq", `loftq_bits is ${bits}, and the weight of ${site.path} is held as ${codes.format.name} (${codes.format.bits} bits)`, `set loftqBits to ${codes.format.bits}, or load the base in another format`, { key: "loftqBits", value: bits });
  return codes;
}

/** W as it was before it was quantized. */
async function original({ site }: Place, weights: InitialData["weights"]): Promise<HostArray> {
  const name = `${site.path}.weight`, found = typeof weights === "function" ? await weights(name) : weights?.get(name);
  if (found === undefined) throw cannot("loftq", `the numbers of ${name} before it was quantized are not given`, "pass data.weights: a map from names to host arrays, or a function (name) => array such as a safetensors file's read", { key: "weights", value: name });
  return found;
}

/** A and B from the weights as they were, and other codes of the same format in the base; these replace the old ones when all modules are done. */
export const loftqInit: Initialisation = {
  name: "loftq",
  begin: ({ config, data, compat }) => {
    const { loftqBits, loftqIter } = config.loftqConfig ?? partDefaults.loftqConfig, next: (() => void)[] = [];
    return {
      start: async (place) => {
        const { site } = place, turned = site.kind === "conv1d";
        mustBeLinear("loftq", place);
        mustBePositive("loftq", place);
        mustHaveRank("loftq", place, site.r);
        const codes = codesOf(place, loftqBits), array = await original(place, data.weights);
        orientedMatrix(place, array, "data.weights: the weight");
        const { format, block, dtype } = codes;
        const { quantized, A, B } = loftq(matrixOf(array), { rank: site.r, iterations: loftqIter, scale: compat === "peft" ? 1 : site.scale, format: format.name, block, dtype, doubleQuant: codes.scaleCodes !== null, name: `${site.path}.weight` });
        next.push(() => { codes.set(quantized); });
        return turned ? { A: transposed(B), B: transposed(A) } : { A, B };
      },
      commit: () => {
        for (const set of next) set();
        structureChanged();
      },
    };
  },
};
