/** Codes to numbers in memory: four neighbours a thread where blocks and lengths allow, else one. What products read is decoded there instead. */
import { type CompositeKernel, decodeOf, type DequantizeAttrs, type Factor, literal, type PlanSpec } from "@adjoint/tensor";
import { reduceNumbers, reducible } from "../code-numbers.ts";
import { codeBytes, codeWidth, decodeBuffers, decoder, Tables } from "../codes.ts";
import { bindStores, storeElement, storeVec4 } from "../element.ts";
import { refuseStarts } from "../gather.ts";
import type { Lower } from "../program.ts";
import { Shader, spread } from "../shader.ts";
import { ceilDiv, product } from "../space.ts";

const THREADS = 256;

export const dequantize: Lower<CompositeKernel> = (kernel, plan, target) => {
  refuseStarts(kernel.label, [...kernel.inputs, ...kernel.outputs]);
  const [codes] = kernel.inputs, [out] = kernel.outputs, wanted = decodeOf(kernel.attrs as DequantizeAttrs, kernel.inputs), n = product(out.shape), { bits } = wanted;
  if (n === 0) return { dispatches: [], scratch: [] };
  const beforehand = new Set([codes.buffer, out.buffer, ...decodeBuffers(wanted)]).size > target.limits.storageBuffers && reducible(wanted) ? reduceNumbers(wanted, plan, target, plan.buffers.length, kernel.label) : null;
  const all: PlanSpec = beforehand === null ? plan : { ...plan, buffers: [...plan.buffers, { kind: "slot", dtype: "f32", length: beforehand.length, offset: 0, position: 0 }] };
  const decode = beforehand?.decode ?? wanted, start = (codes.offset * 8) / bits, fits = codeWidth(decode, (w) => [n, start, out.offset].every((x) => x % w === 0)), width = fits === 1 ? 1 : 4;

  const shader = new Shader(all, target, { writes: new Set([out.buffer]) });
  bindStores(shader, [{ view: out, value: literal(0) }], () => width === 4);
  const tables = new Tables(shader, all), factor: Factor = codes, fn = decoder(shader, tables, factor, decode, "all", width, false, start);
  const points = n / width, { workgroups, linear } = spread(ceilDiv(points, THREADS), target), at = `${shader.param(out.offset)} + point * ${width}u`;
  const body = [
    `let point = ${linear} * ${THREADS}u + li;`, ...tables.fill(THREADS), `if (point < ${shader.param(points)}) {`,
    `let x = ${fn}(point);`, width === 4 ? storeVec4(shader, all, out, at, "x", "float") : storeElement(shader, all, out, at, "x", "float"), "}",
  ];
  const main = shader.dispatch(body.join("\n"), { size: [THREADS, 1, 1], workgroups, label: kernel.label, flops: n, bytes: n * (4 + codeBytes(decode)) });
  return beforehand === null ? { dispatches: [main], scratch: [] } : { dispatches: [...beforehand.dispatches, main], scratch: [beforehand.length * 4] };
};
