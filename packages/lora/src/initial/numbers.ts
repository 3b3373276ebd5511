/** Weights as matrices of f64 on the host, whatever they are held as. */
import { dequantize, quantizedOf } from "@adjoint/quant";
import { type HostArray, type Matrix, matrixOf, ShapeError, transposed } from "@adjoint/tensor";
import { parametersOf } from "../targets/modules.ts";
import type { Place } from "./initial.ts";

/** A weight or a gradient in the layout of the module's weight, as (out, in). @throws ShapeError for any other size */
export function orientedMatrix({ site }: Place, array: HostArray, what: string): Matrix {
  const { path, kind, inFeatures, outFeatures } = site, expected = kind === "conv1d" ? [inFeatures, outFeatures] : [outFeatures, inFeatures];
  if (array.shape.join() !== expected.join()) {
    throw new ShapeError(`${what} of ${path} has shape [${array.shape.join(", ")}], its weight is [${expected.join(", ")}]`, { op: "createLora", key: path, shapes: [array.shape, expected], fix: "pass it in the layout of the weight" });
  }
  return kind === "conv1d" ? transposed(matrixOf(array)) : matrixOf(array);
}

/** W (out, in) of a linear layer in f64, codes decoded. */
export async function weightOf(place: Place): Promise<Matrix> {
  const { weight = parametersOf(place.module).weight } = place, codes = quantizedOf(weight);
  const held: HostArray = codes === null ? await weight.host() : { dtype: "f32", shape: codes.shape, data: dequantize(await codes.host()) };
  return orientedMatrix(place, held, "the weight");
}
