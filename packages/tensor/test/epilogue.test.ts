/** What a matmul's kernel writes and reads: sums that others read too are its epilogue, and runs of a larger result are operands as they are. */
import { expect, test } from "vitest";
import { type ContractKernel, type Kernel, type Tensor, accesses, buildGraph, fromHost, hostUniform, makePlan, rmsNorm, zeroStore } from "../src/index.ts";

const random = (name: string, shape: readonly number[]): Tensor => fromHost(hostUniform(1, name, shape));
const kernelsOf = (outputs: readonly Tensor[]): readonly Kernel[] => {
  const graph = buildGraph(outputs, new Set());
  return makePlan(graph, outputs.map((t) => graph.of(t)), [], true).kernels;
};
const isContract = (k: Kernel): k is ContractKernel => k.kind === "contract";

test("a residual sum that a norm and the next sum read is written by the matmul, and the product alone by nobody", () => {
  const x = random("x", [6, 8]), h = x.add(x.matmul(random("w", [8, 8])).add(random("b", [8]))), y = rmsNorm(h, random("n", [8])).matmul(random("v", [8, 8])).add(h);
  const kernels = kernelsOf([y]), [first, second] = kernels.filter(isContract);
  expect(kernels.map((k) => k.kind)).toEqual(["contract", "rows", "contract"]);
  expect([first.loads.length, first.stores.length, second.loads.length]).toEqual([2, 1, 1]);     // x and b; h
  expect(accesses(kernels[1]).reads.length).toBe(2);                                             // h and the norm's weight
});

test("gelu of a product stays one kernel with it", () => {
  const z = random("x", [6, 8]).matmul(random("w", [8, 8])).add(random("b", [8]));
  expect(kernelsOf([z.mul(z.mul(0.5).tanh().add(1))]).map((k) => k.kind)).toEqual(["contract"]);
});

test("a run of a flat result is an operand where it lies", () => {
  const flat = random("x", [40]).exp(), part = flat.slice(0, 8, 32).reshape([2, 3, 4]).reshape([6, 4]), kernels = kernelsOf([part.matmul(random("w", [4, 5])), flat]);
  expect(kernels.map((k) => k.kind)).toEqual(["map", "contract"]);
  expect(kernels.filter(isContract)[0].a.offset).toBe(8);
});

test("a plan knows its stores and values by the user's names", () => {
  const w = zeroStore([4], "f32", "model.norm.weight"), y = w.add(random("x", [4]).named("x")), graph = buildGraph([y], new Set());
  const { buffers } = makePlan(graph, [graph.of(y)], [], true);
  expect(buffers.map((b) => [b.kind, b.name]).sort()).toEqual([["input", "x"], ["output", undefined], ["store", "model.norm.weight"]]);
});
