/** What a plain loop of assignments leaves in its stores is what the same statements leave in arrays. */
import { type Store, assign, createReference, setDevice, store, tensor } from "@adjoint/tensor";
import fc from "fast-check";
import { expect, test } from "vitest";
import { assignmentPrograms, checkAssignments } from "../src/index.ts";

const numRuns = Number(process.env["ADJOINT_RUNS"] ?? 400), seed = Number(process.env["ADJOINT_SEED"] ?? 1);
const backends = [createReference({ name: "plain" }), createReference({ name: "fused", fuse: true, arena: true }), createReference({ name: "asynchronous", fuse: true, sync: false })];

test.each(backends)("random programs on $name", async (backend) => {
  await fc.assert(fc.asyncProperty(assignmentPrograms(), (p) => checkAssignments(p, backend, backend.name)), { numRuns, seed });
}, 120_000);

test.each(backends)("a value recorded before the store that it reads changes: $name", async (backend) => {
  setDevice(backend);
  const large = (x: number): Store => store(tensor(new Float32Array(100).fill(x))), a = large(1), b = large(10);
  const v = a.mul(2);
  assign([a], [a.add(b)]);
  assign([b], [b.add(1)]);
  assign([b], [v]);                                     // carries out b + 1, hence a + b, which overwrites what v reads
  expect([(await a.data())[0], (await b.data())[0]]).toEqual([11, 2]);
});

test.each(backends)("a store that gave its value to another keeps it: $name", async (backend) => {
  setDevice(backend);
  const a = store(tensor([1])), b = store(tensor([10]));
  for (let i = 0; i < 3; i++) { assign([a], [b]); await a.data(); assign([a], [a.add(1)]); await a.data(); }
  expect([await a.item(), await b.item(), await b.add(1).item()]).toEqual([11, 10, 11]);
});
